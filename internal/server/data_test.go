package server_test

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

func TestPagesOfTheDataProcessAreShown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "debug.sock")
	c := servertest.Start(t, servertest.Options{Data: socket})
	metrics := func() string {
		r, err := c.Transport().Get("http://holdfast/metrics")
		c.Must(err)
		return read(t, r)
	}
	if text := metrics(); !strings.Contains(text, "\nholdfast_data_reachable 0\n") || !strings.Contains(text, "\nholdfast_state_reachable 1\n") {
		t.Errorf("without a data process:\n%s", text)
	}
	l, err := net.Listen("unix", socket)
	c.Must(err)
	pages := http.NewServeMux()
	pages.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP holdfast_volume_in_flight x\n# TYPE holdfast_volume_in_flight gauge\nholdfast_volume_in_flight{volume=\"db\"} 7\n")
	})
	pages.HandleFunc("/debug/volumes/db", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "epoch 7") })
	data := server.HTTP(pages)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = data.Serve(l) // it ends when it is closed
	}()
	t.Cleanup(func() { _ = data.Close(); patiently.From(t, done) })
	if text := metrics(); !strings.Contains(text, "\nholdfast_data_reachable 1\n") || !strings.Contains(text, "\nholdfast_volume_in_flight{volume=\"db\"} 7\n") {
		t.Errorf("with a data process:\n%s", text)
	}
	r, err := c.Transport().Get("http://holdfast/debug/volumes/db")
	c.Must(err)
	if text := read(t, r); text != "epoch 7" {
		t.Errorf("an administrator sees %q", text)
	}
	r, err = http.Get(c.TCP + "/debug/volumes/db")
	c.Must(err)
	if _ = read(t, r); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody sees it with %d", r.StatusCode)
	}
	tok, err := c.Client.Cluster.CreateToken(c.Ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_API, Role: v1.Role_ROLE_USER, Subject: "u"})
	c.Must(err)
	q, err := http.NewRequest("GET", c.TCP+"/debug/volumes/db", nil)
	c.Must(err)
	q.Header.Set("Authorization", "Bearer "+tok.Secret)
	r, err = http.DefaultClient.Do(q)
	c.Must(err)
	if _ = read(t, r); r.StatusCode != http.StatusForbidden {
		t.Errorf("a user sees it with %d", r.StatusCode)
	}
}
