package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// dataWait is how long the data process may take to answer a page.
const dataWait = 5 * time.Second

// through makes a transport that connects to a socket, whatever the address.
func through(socket string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: dataWait, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
}

// answers reports whether somebody listens at a socket.
func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, dataWait)
	if err != nil {
		return false
	}
	_ = conn.Close() // it answered
	return true
}

// dataMetrics gathers what the data process shows, by its socket. One that isn't there
// has no metrics: holdfast_data_reachable says so.
type dataMetrics string

// Gather takes the figures.
func (d dataMetrics) Gather() ([]*dto.MetricFamily, error) {
	c := http.Client{Transport: through(string(d)), Timeout: dataWait}
	r, err := c.Get("http://data/metrics")
	if err != nil {
		return nil, nil // see above
	}
	defer r.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r.Body)
	if err != nil {
		return nil, fmt.Errorf("the data process shows metrics that can't be read: %w", err)
	}
	var all []*dto.MetricFamily
	for _, name := range sortedKeys(families) {
		all = append(all, families[name])
	}
	return all, nil
}

// debug shows the debug pages of the data process to administrators.
func (s *Server) debug() http.Handler {
	pages := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "data"})
	pages.Transport = through(s.options.Data)
	pages.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, fmt.Sprintf("the data process of this node does not answer: %v", err), http.StatusBadGateway)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := s.identify(r.Context(), r.Header)
		switch {
		case err != nil:
			what, cure := fault.Describe(err)
			http.Error(w, what+"; "+cure, http.StatusUnauthorized)
		case id.Role != v1.Role_ROLE_ADMIN:
			http.Error(w, "debug pages are for administrators", http.StatusForbidden)
		default:
			r.Header.Del("Authorization")
			pages.ServeHTTP(w, r)
		}
	})
}
