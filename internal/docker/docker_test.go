package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/docker"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// engine talks to a plugin as Docker does.
type engine struct {
	t      *testing.T
	root   string
	dir    string
	plugin *docker.Plugin
	client *http.Client
	stop   func()
}

func start(t *testing.T, c *csitest.Cluster, node csitest.Node) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices and mounts need root")
	}
	e := &engine{t: t, root: filepath.Join(t.TempDir(), "mounts"), dir: t.TempDir()}
	e.run(c, node)
	return e
}

// serveAt makes the plugin answer at a second socket.
func (e *engine) serveAt(socket string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.plugin.Serve(ctx, socket) }()
	e.t.Cleanup(func() {
		cancel()
		if err := patiently.From(e.t, done); err != nil {
			e.t.Error(err)
		}
	})
}

func (e *engine) run(c *csitest.Cluster, node csitest.Node) {
	p, err := docker.New(docker.Options{Node: node.Name, Root: e.root, Dir: e.dir, API: docker.API{
		Volumes:     holdfastv1connect.NewVolumeServiceClient(c.Client, c.URL),
		Attachments: holdfastv1connect.NewAttachmentServiceClient(c.Client, c.URL),
		Nodes:       holdfastv1connect.NewNodeServiceClient(c.Client, c.URL),
	}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.plugin = p
	socket := filepath.Join(e.t.TempDir(), "holdfast.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, socket) }()
	e.client = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	patiently.Until(e.t, func() error { // it listens
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := patiently.From(e.t, done); err != nil {
			e.t.Error(err)
		}
	})
	e.t.Cleanup(func() { e.stop() })
}

type reply struct {
	Err          string
	Implements   []string
	Capabilities struct{ Scope string }
	Mountpoint   string
	Volume       struct {
		Name, Mountpoint, CreatedAt string
		Status                      map[string]any
	}
	Volumes []struct{ Name, Mountpoint string }
}

// ask makes one call, and returns what the plugin says.
func (e *engine) ask(verb string, q map[string]any) (r reply, code int) {
	e.t.Helper()
	body, _ := json.Marshal(q)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/"+verb, bytes.NewReader(body))
	got, err := e.client.Do(request)
	if err != nil {
		e.t.Fatal(verb, err)
	}
	defer got.Body.Close()
	if err := json.NewDecoder(got.Body).Decode(&r); err != nil {
		e.t.Fatal(verb, err)
	}
	return r, got.StatusCode
}

// must makes one call that has to go well.
func (e *engine) must(verb string, q map[string]any) reply {
	e.t.Helper()
	r, code := e.ask(verb, q)
	if r.Err != "" || code != http.StatusOK {
		e.t.Fatalf("%s %v: %d %s", verb, q, code, r.Err)
	}
	return r
}

type q = map[string]any

func TestEngineLearnsWhatThePluginIs(t *testing.T) {
	e := start(t, csitest.Start(t, 1), csitest.Node{Name: "node-a"})
	if r := e.must("Plugin.Activate", nil); len(r.Implements) != 1 || r.Implements[0] != "VolumeDriver" {
		t.Errorf("it implements %v", r.Implements)
	}
	if r := e.must("VolumeDriver.Capabilities", nil); r.Capabilities.Scope != "global" {
		t.Errorf("its scope is %q", r.Capabilities.Scope)
	}
}

func TestVolumeLivesFromCreateToRemove(t *testing.T) {
	e := start(t, csitest.Start(t, 1), csitest.Node{Name: "node-a"})
	create := q{"Name": "db", "Opts": map[string]string{"size": "64Mi", "repl": "1"}}
	e.must("VolumeDriver.Create", create)
	e.must("VolumeDriver.Create", create)
	e.must("VolumeDriver.Create", q{"Name": "db"}) // docker run -v db:/data, where it is there already
	if r, _ := e.ask("VolumeDriver.Create", q{"Name": "db", "Opts": map[string]string{"size": "1Gi"}}); !strings.Contains(r.Err, "size_bytes") {
		t.Errorf("another volume of the name: %q", r.Err)
	}
	if r, _ := e.ask("VolumeDriver.Create", q{"Name": "x", "Opts": map[string]string{"sise": "1Gi"}}); !strings.Contains(r.Err, "did you mean size?") {
		t.Errorf("a misspelt option: %q", r.Err)
	}
	if r := e.must("VolumeDriver.List", nil); len(r.Volumes) != 1 || r.Volumes[0].Name != "db" {
		t.Errorf("listed %v", r.Volumes)
	}
	r := e.must("VolumeDriver.Get", q{"Name": "db"})
	if r.Volume.Status["size"] != float64(64<<20) || r.Volume.Status["health"] != "healthy" || r.Volume.Mountpoint != "" || r.Volume.CreatedAt == "" {
		t.Errorf("got %+v", r.Volume)
	}
	at := e.must("VolumeDriver.Mount", q{"Name": "db", "ID": "c1"}).Mountpoint
	if at != filepath.Join(e.root, "db") || e.must("VolumeDriver.Path", q{"Name": "db"}).Mountpoint != at {
		t.Errorf("mounted at %q", at)
	}
	if err := os.WriteFile(filepath.Join(at, "hello"), []byte("there"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, _ := e.ask("VolumeDriver.Remove", q{"Name": "db"}); r.Err == "" {
		t.Error("a volume in use was removed")
	}
	e.must("VolumeDriver.Unmount", q{"Name": "db", "ID": "c1"})
	e.must("VolumeDriver.Remove", q{"Name": "db"})
	e.must("VolumeDriver.Remove", q{"Name": "db"})
	if r, code := e.ask("VolumeDriver.Get", q{"Name": "db"}); r.Err == "" || code != http.StatusNotFound {
		t.Errorf("a removed volume: %d %q", code, r.Err)
	}
}

func TestNameSaysEverything(t *testing.T) {
	e := start(t, csitest.Start(t, 2), csitest.Node{Name: "node-a"})
	name := "name=web,size=64Mi,repl=2"
	e.must("VolumeDriver.Create", q{"Name": name})
	at := e.must("VolumeDriver.Mount", q{"Name": name, "ID": "c1"}).Mountpoint
	if at != filepath.Join(e.root, "web") {
		t.Errorf("mounted at %q", at)
	}
	if r := e.must("VolumeDriver.Get", q{"Name": name}); r.Volume.Name != name || r.Volume.Status["replicas"] != float64(2) {
		t.Errorf("got %+v", r.Volume)
	}
	e.must("VolumeDriver.Unmount", q{"Name": "web", "ID": "c1"}) // the same volume, by its plain name
	if r, _ := e.ask("VolumeDriver.Create", q{"Name": "size=1Gi"}); !strings.Contains(r.Err, "name") {
		t.Errorf("an inline name without a name: %q", r.Err)
	}
}

func TestLastUserLetsGoAlsoAfterARestart(t *testing.T) {
	c := csitest.Start(t, 1)
	e := start(t, c, c.Nodes[0])
	e.must("VolumeDriver.Create", q{"Name": "db", "Opts": map[string]string{"size": "64Mi"}})
	var all sync.WaitGroup
	for _, id := range []string{"c1", "c2", "c1"} {
		all.Go(func() { e.must("VolumeDriver.Mount", q{"Name": "db", "ID": id}) })
	}
	patiently.Return(t, all.Wait)
	e.must("VolumeDriver.Unmount", q{"Name": "db", "ID": "c1"})
	e.stop()
	e.run(c, c.Nodes[0])
	if r := e.must("VolumeDriver.Get", q{"Name": "db"}); r.Volume.Mountpoint == "" {
		t.Error("it was unmounted under its second user")
	}
	e.must("VolumeDriver.Unmount", q{"Name": "db", "ID": "c2"})
	if r := e.must("VolumeDriver.Get", q{"Name": "db"}); r.Volume.Mountpoint != "" || r.Volume.Status["attachedTo"] != nil {
		t.Errorf("nobody uses it: %+v", r.Volume)
	}
}

func TestVolumeFollowsToAnotherNodeWhenItsNodeDies(t *testing.T) {
	c := csitest.Start(t, 2)
	a, b := start(t, c, c.Nodes[0]), start(t, c, c.Nodes[1])
	a.must("VolumeDriver.Create", q{"Name": "db", "Opts": map[string]string{"size": "64Mi"}})
	at := a.must("VolumeDriver.Mount", q{"Name": "db", "ID": "c1"}).Mountpoint
	f, err := os.Create(filepath.Join(at, "hello"))
	if err == nil {
		_, err = f.WriteString("there")
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if r, _ := b.ask("VolumeDriver.Mount", q{"Name": "db", "ID": "c2"}); !strings.Contains(r.Err, "node-a") {
		t.Errorf("a volume that another node has: %q", r.Err)
	}
	c.Kill(c.Nodes[0])
	at = b.must("VolumeDriver.Mount", q{"Name": "db", "ID": "c2"}).Mountpoint
	if text, err := os.ReadFile(filepath.Join(at, "hello")); string(text) != "there" {
		t.Errorf("read %q, %v", text, err)
	}
	b.must("VolumeDriver.Unmount", q{"Name": "db", "ID": "c2"})
}
