package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// cupboard keeps objects of one namespace as an API server does: a name once.
type cupboard struct {
	mu      sync.Mutex
	objects map[string]json.RawMessage
}

func (c *cupboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var raw json.RawMessage
	_ = json.NewDecoder(r.Body).Decode(&raw)
	path := r.URL.Path
	if r.Method == http.MethodPost {
		var m struct{ Metadata meta }
		_ = json.Unmarshal(raw, &m)
		path += "/" + m.Metadata.Name
	}
	_, there := c.objects[path]
	switch {
	case r.Method == http.MethodPost && there:
		w.WriteHeader(http.StatusConflict)
	case r.Method == http.MethodGet && !there:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		_, _ = w.Write(c.objects[path])
		return
	default:
		c.objects[path] = raw
	}
	_, _ = fmt.Fprint(w, "{}")
}

// mint makes tokens.
type mint struct {
	holdfastv1connect.ClusterServiceClient
	made int
}

func (m *mint) CreateToken(_ context.Context, r *holdfastv1.CreateTokenRequest) (*holdfastv1.CreateTokenResponse, error) {
	m.made++
	return &holdfastv1.CreateTokenResponse{Secret: fmt.Sprint("hf1.", r.Kind, ".", m.made)}, nil
}

func TestOneFoundsAndTheOthersJoinIt(t *testing.T) {
	c := &cupboard{objects: map[string]json.RawMessage{}}
	h := httptest.NewServer(c)
	defer h.Close()
	g := &Gathering{Kube: &Client{URL: h.URL, HTTP: h.Client()}, Namespace: "holdfast", Log: slog.New(slog.DiscardHandler)}
	dir := t.TempDir()
	prepare := func(node string) string {
		m := Member{Node: node, Address: node + ":7400", Config: filepath.Join(dir, node)}
		if err := g.Prepare(patiently.Context(t), m); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(m.Config)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	tokens := &mint{}
	if text := prepare("a"); text != "name: a\n" {
		t.Errorf("the founder has %q", text)
	}
	joined := make(chan string, 2)
	for _, node := range []string{"b", "c"} {
		go func() { joined <- prepare(node) }()
	}
	for range 3 {
		if err := g.invite(context.Background(), tokens); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if text := patiently.From(t, joined); !strings.Contains(text, "join: a:7400\n") || !strings.Contains(text, "token: hf1.TOKEN_KIND_JOIN.1\n") {
			t.Errorf("one who joins has %q", text)
		}
	}
	if text := prepare("a"); text != "name: a\n" {
		t.Errorf("the founder, restarted, has %q", text)
	}
	if tokens.made != 1 {
		t.Errorf("%d tokens were made", tokens.made)
	}
	old, _ := json.Marshal(secret{Data: map[string]string{"made": base64.StdEncoding.EncodeToString([]byte("2020-01-01T00:00:00Z"))}})
	c.mu.Lock()
	c.objects["/api/v1/namespaces/holdfast/secrets/holdfast-join"] = old
	c.mu.Unlock()
	if err := g.invite(context.Background(), tokens); err != nil || tokens.made != 2 {
		t.Errorf("an old token was not replaced: %v, %d made", err, tokens.made)
	}
}
