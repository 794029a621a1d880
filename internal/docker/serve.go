package docker

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// The protocol's words: https://docs.docker.com/engine/extend/plugins_volume/

type question struct {
	Name string
	ID   string
	Opts map[string]string
}

type volume struct {
	Name       string
	Mountpoint string         `json:",omitempty"`
	CreatedAt  string         `json:",omitempty"`
	Status     map[string]any `json:",omitempty"`
}

type answer struct {
	Err          string
	Implements   []string      `json:",omitempty"`
	Capabilities *capabilities `json:",omitempty"`
	Mountpoint   string        `json:",omitempty"`
	Volume       *volume       `json:",omitempty"`
	Volumes      []*volume     `json:",omitempty"`
}

type capabilities struct{ Scope string }

const (
	contentType  = "application/vnd.docker.plugins.v1.2+json"
	questionMax  = 1 << 20         // bytes
	patienceMax  = 2 * time.Minute // as long as the engine waits for an answer
	pageMax      = 1000
	socketRights = 0o600
)

// verbs are the calls of the protocol.
func (p *Plugin) verbs() map[string]func(context.Context, question) (answer, error) {
	return map[string]func(context.Context, question) (answer, error){
		"/Plugin.Activate": func(context.Context, question) (answer, error) {
			return answer{Implements: []string{"VolumeDriver"}}, nil
		},
		"/VolumeDriver.Capabilities": func(context.Context, question) (answer, error) {
			return answer{Capabilities: &capabilities{Scope: "global"}}, nil
		},
		"/VolumeDriver.Create": func(ctx context.Context, q question) (answer, error) {
			return answer{}, p.create(ctx, q.Name, q.Opts)
		},
		"/VolumeDriver.Remove": func(ctx context.Context, q question) (answer, error) {
			return answer{}, p.remove(ctx, q.Name)
		},
		"/VolumeDriver.Mount": func(ctx context.Context, q question) (answer, error) {
			at, err := p.mount(ctx, q.Name, q.ID)
			return answer{Mountpoint: at}, err
		},
		"/VolumeDriver.Unmount": func(ctx context.Context, q question) (answer, error) {
			return answer{}, p.unmount(ctx, q.Name, q.ID)
		},
		"/VolumeDriver.Path": func(ctx context.Context, q question) (answer, error) {
			one, err := p.show(ctx, q.Name)
			return answer{Mountpoint: one.Mountpoint}, err
		},
		"/VolumeDriver.Get": func(ctx context.Context, q question) (answer, error) {
			one, err := p.show(ctx, q.Name)
			return answer{Volume: &one}, err
		},
		"/VolumeDriver.List": func(ctx context.Context, _ question) (answer, error) {
			all, err := p.list(ctx)
			return answer{Volumes: all}, err
		},
	}
}

// show describes one volume, under the name that the engine knows it by.
func (p *Plugin) show(ctx context.Context, text string) (volume, error) {
	name, _, err := named(text)
	if err != nil {
		return volume{}, err
	}
	v, err := p.get(ctx, name)
	if err != nil {
		return volume{}, err
	}
	return p.describe(v, text), nil
}

func (p *Plugin) describe(v *holdfastv1.Volume, name string) volume {
	out := volume{Name: name, Mountpoint: p.mounted(v), Status: status(v)}
	if created := v.GetMeta().GetCreated(); created != nil {
		out.CreatedAt = created.AsTime().Format(time.RFC3339)
	}
	return out
}

// list describes all volumes.
func (p *Plugin) list(ctx context.Context) (all []*volume, err error) {
	for token := ""; ; {
		got, err := p.o.API.Volumes.ListVolumes(ctx, &holdfastv1.ListVolumesRequest{PageSize: pageMax, PageToken: token})
		if err != nil {
			return nil, rpc.Fault("docker.List", err)
		}
		for _, v := range got.Volumes {
			one := p.describe(v, v.GetMeta().GetName())
			all = append(all, &one)
		}
		if token = got.NextPageToken; token == "" {
			return all, nil
		}
	}
}

// Handler answers the engine's requests.
func (p *Plugin) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, verb := range p.verbs() {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), patienceMax)
			defer cancel()
			q, err := read(r.Body)
			var a answer
			if err == nil {
				a, err = verb(ctx, q)
			}
			p.reply(w, path, q, a, err)
		})
	}
	return mux
}

// read reads a question; an empty body asks without words.
func read(body io.Reader) (q question, err error) {
	raw, err := io.ReadAll(io.LimitReader(body, questionMax))
	if err != nil {
		return q, fault.Wrap("docker.read", err)
	}
	if len(raw) == 0 {
		return q, nil
	}
	if err := json.Unmarshal(raw, &q); err != nil {
		return q, fault.Errorf("docker.read", fault.Invalid, "the question can't be read: %w", err)
	}
	return q, nil
}

func (p *Plugin) reply(w http.ResponseWriter, path string, q question, a answer, err error) {
	w.Header().Set("Content-Type", contentType)
	if err != nil {
		what, cure := fault.Describe(err)
		if cure != "" {
			what += "; " + cure
		}
		a = answer{Err: what}
		p.log.Warn("a call of the engine failed", "call", path, "name", q.Name, obs.Err(err))
		code := http.StatusInternalServerError
		if fault.Is(err, fault.NotFound) {
			code = http.StatusNotFound // the engine takes it for "make it"
		}
		w.WriteHeader(code)
	}
	_ = json.NewEncoder(w).Encode(a) // the engine went away: nothing to be done
}

// Serve answers on a unix socket until ctx ends.
func (p *Plugin) Serve(ctx context.Context, socket string) error {
	const op = "docker.Serve"
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fault.Wrap(op, err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return fault.Wrap(op, err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if err := os.Chmod(socket, socketRights); err != nil {
		_ = listener.Close()
		return fault.Wrap(op, err)
	}
	h := &http.Server{Handler: p.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = h.Shutdown(grace) // what takes longer is cut off
	}()
	if err := h.Serve(listener); err != http.ErrServerClosed {
		return fault.Wrap(op, err)
	}
	<-stopped
	return nil
}
