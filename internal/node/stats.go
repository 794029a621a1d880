package node

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// statsPage is /stats/ID?over=1s: what I/O the volume's device or export here has from now on
// for so long; without over, all since this process has served it.
func (d *daemon) statsPage(w http.ResponseWriter, r *http.Request) {
	over, err := time.ParseDuration(r.URL.Query().Get("over"))
	if err != nil || over < 0 {
		http.Error(w, "no duration", http.StatusBadRequest)
		return
	}
	stats, err := d.stats(r.Context(), r.PathValue("id"), over)
	answerPage(w, stats, err)
}

func (d *daemon) stats(ctx context.Context, volume string, over time.Duration) (*v1.VolumeStats, error) {
	f, since := d.show.served(volume)
	if f == nil {
		return nil, fault.Errorf("node.stats", fault.NotFound, "the volume is not attached to this node")
	}
	var before attach.Stats
	if over > 0 {
		before, since = f.Stats(), time.Now()
		select {
		case <-time.After(over):
		case <-f.Ended():
		case <-ctx.Done():
			return nil, fault.Errorf("node.stats", fault.Canceled, "the caller has gone")
		}
	}
	s := volumeStats(f.Stats().Since(before), time.Since(since))
	s.VolumeId, s.NodeId, s.At = volume, d.o.Node.String(), timestamppb.Now()
	return s, nil
}

// served returns what shows a volume, or nil, and since when.
func (a *attachments) served(volume string) (attach.Frontend, time.Time) {
	a.mu.Lock()
	at := a.list[volume]
	a.mu.Unlock()
	if at == nil {
		return nil, time.Time{}
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.front, at.since
}

// volumeStats says what was done in some time.
func volumeStats(s attach.Stats, over time.Duration) *v1.VolumeStats {
	out := &v1.VolumeStats{Over: durationpb.New(over), InFlight: int64(s.InFlight)}
	for _, o := range []struct {
		name string
		of   attach.OpStats
	}{{"read", s.Read}, {"write", s.Write}, {"flush", s.Flush}, {"zero", s.Zero}} {
		out.Operations = append(out.Operations, operationStats(o.name, &o.of, over))
	}
	return out
}

func operationStats(name string, s *attach.OpStats, over time.Duration) *v1.OperationStats {
	n := s.Latency.Count()
	out := &v1.OperationStats{Operation: name, Count: n, Bytes: s.Bytes, Errors: s.Errors}
	if seconds := over.Seconds(); seconds > 0 {
		out.PerSecond, out.BytesPerSecond = float64(n)/seconds, float64(s.Bytes)/seconds
	}
	if n == 0 {
		return out
	}
	out.Mean = durationpb.New(s.Latency.Sum / time.Duration(n))
	out.P50 = durationpb.New(s.Latency.Quantile(0.5))
	out.P99 = durationpb.New(s.Latency.Quantile(0.99))
	out.P999 = durationpb.New(s.Latency.Quantile(0.999))
	for i, count := range s.Latency.Counts {
		if count > 0 {
			out.Latencies = append(out.Latencies, &v1.LatencyBucket{Below: durationpb.New(attach.BucketEnd(i)), Count: count})
		}
	}
	return out
}

// StatsQuery asks for a volume's I/O.
type StatsQuery struct {
	Volume string        // id
	Over   time.Duration // from now on; 0 is all that was done
}

// Stats asks the data process whose debug socket that is what I/O a volume has that is
// attached to its node; fault.NotFound when it is not.
func Stats(ctx context.Context, socket string, q StatsQuery) (*v1.VolumeStats, error) {
	answer := &v1.VolumeStats{}
	return answer, askPage(ctx, "node.Stats", page{socket: socket, path: "/stats/" + q.Volume + "?over=" + q.Over.String()}, answer)
}
