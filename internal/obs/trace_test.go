package obs_test

import (
	"context"
	"net"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/internal/obs"
)

func TestNothingIsTracedWithoutACollector(t *testing.T) {
	traces, flush, err := obs.Traces(context.Background(), func(string) string { return "" }, "n1", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, span := traces.Tracer("x").Start(context.Background(), "y"); span.IsRecording() {
		t.Error("a span is recorded")
	}
	if err := flush(context.Background()); err != nil {
		t.Error(err)
	}
}

// sink is a collector.
type sink struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

// Export takes spans.
func (s *sink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.names <- span.Name
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestSpansReachTheCollectorThatIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{names: make(chan string, 1)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends when it is stopped
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	t.Setenv(obs.EnvTraces, "http://"+l.Addr().String())
	traces, flush, err := obs.Traces(context.Background(), func(string) string { return "set" }, "n1", "test")
	if err != nil {
		t.Fatal(err)
	}
	_, span := traces.Tracer("x").Start(context.Background(), "CreateVolume")
	span.End()
	if err := flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if name := <-s.names; name != "CreateVolume" {
		t.Errorf("the collector got %q", name)
	}
}
