package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// debugPages serves what people and collectors may look at, on a Unix socket that only
// root can open:
//
//	/metrics              of the volumes that are attached here, for Prometheus
//	/debug/volumes        those volumes, one a line: id, name
//	/debug/volumes/NAME   all that the volume's coordinator knows, as text
//	/changed              what differs between snapshots: see Changed
//	/vacant/ID            whether nobody has a lease of a volume's replica here: see Vacant
//	/stats/ID             what I/O a volume has: see Stats
func (d *daemon) debugPages(ctx context.Context) {
	_ = os.Remove(d.o.Debug) // a process that was killed leaves it
	old, err := net.Listen("unix", d.o.Debug)
	if err == nil {
		err = os.Chmod(d.o.Debug, 0o600)
	}
	if err != nil {
		d.o.Log.Error("there are no metrics and no debug pages", "err", err)
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(volumesCollector{d})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/volumes", d.listVolumes)
	mux.HandleFunc("GET /debug/volumes/{name}", d.showVolume)
	mux.HandleFunc("POST /changed", d.changedPage)
	mux.HandleFunc("GET /vacant/{id}", d.vacantPage)
	mux.HandleFunc("GET /stats/{id}", d.statsPage)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(old); err != nil && !errors.Is(err, http.ErrServerClosed) {
		d.o.Log.Error("metrics and debug pages have ended", "err", err)
	}
}

// shown is what is looked at of an attachment.
type shown struct {
	id, name string
	at       *attachment
}

// all returns the attachments, in the order of their names.
func (a *attachments) all() (list []shown) {
	a.mu.Lock()
	for id, at := range a.list {
		s := shown{id: id, name: id, at: at}
		if v, ok := a.d.view.volumes.Get(id); ok {
			s.name = v.Value.Meta.GetName()
		}
		list = append(list, s)
	}
	a.mu.Unlock()
	slices.SortFunc(list, func(a, b shown) int { return strings.Compare(a.name, b.name) })
	return list
}

func (d *daemon) listVolumes(w http.ResponseWriter, _ *http.Request) {
	for _, s := range d.show.all() {
		fmt.Fprintln(w, s.id, s.name)
	}
}

func (d *daemon) showVolume(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	for _, s := range d.show.all() {
		if s.id != name && s.name != name {
			continue
		}
		text := "no head runs\n"
		d.node.do(func() {
			for _, h := range d.node.heads {
				if h.volume.String() == s.id {
					text = h.coord.Debug(d.node.loop.Now())
				}
			}
		})
		fmt.Fprint(w, text)
		return
	}
	http.Error(w, "no volume of that name or id is attached to this node", http.StatusNotFound)
}
