package server

import (
	"encoding/json"
	"net/http"

	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
)

// serviceNames are those that reflection and health know.
var serviceNames = []string{
	holdfastv1connect.ClusterServiceName, holdfastv1connect.NodeServiceName, holdfastv1connect.PoolServiceName,
	holdfastv1connect.VolumeServiceName, holdfastv1connect.AttachmentServiceName, holdfastv1connect.SnapshotServiceName,
	holdfastv1connect.OperationServiceName, holdfastv1connect.EventServiceName,
}

// mountPages gives what is no call its place. It needs no role: it says nothing of
// volumes, but for the metrics, which name them.
func (s *Server) mountPages() {
	reflector := grpcreflect.NewStaticReflector(serviceNames...)
	s.mux.Handle(grpcreflect.NewHandlerV1(reflector))
	s.mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	s.mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(serviceNames...)))
	s.mux.HandleFunc("GET /healthz", s.healthz)
	s.mux.Handle("GET /metrics", s.metrics.handler())
	if s.options.Data != "" {
		s.mux.Handle("GET /debug/volumes", s.debug())
		s.mux.Handle("GET /debug/volumes/", s.debug())
	}
	s.mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(v1.OpenAPI) // who asked may have gone
	})
}

// healthz says whether this server can answer. It can, as long as it has read the state
// once: a state that is away for a while is no reason to be restarted.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Ready bool   `json:"ready"`
		State string `json:"state"`
	}{true, "reachable"}
	for _, m := range s.view.all {
		select {
		case <-m.Ready():
		default:
			answer.Ready, answer.State = false, "not read yet"
		}
	}
	if err := s.view.stale(); err != nil {
		answer.State = err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}
