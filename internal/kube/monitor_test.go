package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/kube/registration"
)

// apiServer is as much of Kubernetes' API server as is called.
type apiServer struct {
	mu      sync.Mutex
	objects map[string]map[string]any // by path
	deleted []string
	events  []event
	grace   map[string]any
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		raw, _ := json.Marshal(body)
		var e event
		_ = json.Unmarshal(raw, &e)
		s.events = append(s.events, e)
	case r.Method == http.MethodDelete && s.objects[r.URL.Path] != nil:
		s.grace[r.URL.Path] = body["gracePeriodSeconds"]
		s.deleted = append(s.deleted, r.URL.Path)
		delete(s.objects, r.URL.Path)
	case r.Method == http.MethodPatch:
		s.objects[r.URL.Path]["spec"] = body["spec"]
	case s.objects[r.URL.Path] != nil:
		_ = json.NewEncoder(w).Encode(s.objects[r.URL.Path])
		return
	default:
		s.list(w, r)
		return
	}
	_, _ = fmt.Fprint(w, "{}")
}

// list answers with what is below a path, one object a page.
func (s *apiServer) list(w http.ResponseWriter, r *http.Request) {
	var names []string
	for path := range s.objects {
		under := strings.HasPrefix(path, r.URL.Path+"/")
		pods := r.URL.Path == "/api/v1/pods" && strings.Contains(path, "/pods/")
		if (under || pods) && path > r.URL.Query().Get("continue") {
			names = append(names, path)
		}
	}
	slices.Sort(names)
	page := map[string]any{"metadata": map[string]any{}, "items": []any{}}
	if len(names) > 0 {
		page["items"] = []any{s.objects[names[0]]}
	}
	if len(names) > 1 {
		page["metadata"] = map[string]any{"continue": names[0]}
	}
	_ = json.NewEncoder(w).Encode(page)
}

func (s *apiServer) put(path string, object string) {
	var o map[string]any
	if err := json.Unmarshal([]byte(object), &o); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = o
}

// stage is a Kubernetes of three nodes with our driver, and a pod with one of our claims,
// one with another's, and one of a daemon set, all on node b.
func stage(t *testing.T) (*csitest.Cluster, *apiServer, *Client) {
	if os.Geteuid() != 0 {
		t.Skip("loop devices and mounts need root")
	}
	c := csitest.Start(t, 3)
	s := &apiServer{objects: map[string]map[string]any{}, grace: map[string]any{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	for _, n := range c.Nodes {
		s.put("/api/v1/nodes/"+n.Name, fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"1"},"spec":{},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, n.Name))
		s.put("/apis/storage.k8s.io/v1/csinodes/"+n.Name, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"drivers":[{"name":"other","nodeID":"x"},{"name":%q,"nodeID":%q}]}}`, n.Name, csi.DriverName, n.ID))
	}
	s.put("/api/v1/persistentvolumes/pv-1", fmt.Sprintf(`{"metadata":{"name":"pv-1"},"spec":{"csi":{"driver":%q,"volumeHandle":"db"},"claimRef":{"name":"data","namespace":"shop"}}}`, csi.DriverName))
	s.put("/api/v1/persistentvolumes/pv-2", `{"metadata":{"name":"pv-2"},"spec":{"csi":{"driver":"other","volumeHandle":"x"},"claimRef":{"name":"others","namespace":"shop"}}}`)
	s.put("/api/v1/namespaces/shop/persistentvolumeclaims/data", `{"spec":{"volumeName":"pv-1"}}`)
	for name, more := range map[string]string{"ours": `"data"`, "others": `"others"`, "daemon": `"data"`} {
		owner := ""
		if name == "daemon" {
			owner = `,"ownerReferences":[{"kind":"DaemonSet","name":"d"}]`
		}
		s.put("/api/v1/namespaces/shop/pods/"+name, fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop","uid":"u-%s"%s},"spec":{"nodeName":"node-b","volumes":[{"name":"v","persistentVolumeClaim":{"claimName":%s}}]}}`, name, name, owner, more))
	}
	s.put("/apis/storage.k8s.io/v1/volumeattachments/ours", fmt.Sprintf(`{"metadata":{"name":"ours"},"spec":{"attacher":%q,"nodeName":"node-b"}}`, csi.DriverName))
	s.put("/apis/storage.k8s.io/v1/volumeattachments/others", `{"metadata":{"name":"others"},"spec":{"attacher":"other","nodeName":"node-b"}}`)
	s.put("/apis/storage.k8s.io/v1/volumeattachments/elsewhere", fmt.Sprintf(`{"metadata":{"name":"elsewhere"},"spec":{"attacher":%q,"nodeName":"node-a"}}`, csi.DriverName))
	return c, s, &Client{URL: h.URL, HTTP: h.Client()}
}

// fakeClock is moved by the test.
type fakeClock struct{ now time.Duration }

func (c *fakeClock) Now() time.Duration { return c.now }

func TestWhatANodeThatIsGoneHoldsIsReleasedAndNothingElse(t *testing.T) {
	c, s, kube := stage(t)
	clock := &fakeClock{}
	m := &Monitor{Kube: kube, Nodes: holdfastv1connect.NewNodeServiceClient(c.Client, c.URL), Volumes: holdfastv1connect.NewVolumeServiceClient(c.Client, c.URL),
		Clock: clock, Log: slog.New(slog.DiscardHandler)}
	m.watchman.patience = DefaultPatience
	live := func(nodes ...string) {
		clock.now += 5 * time.Second
		for _, n := range nodes {
			s.put("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+n, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"renewTime":%q}}`, n, clock.now))
		}
		if err := m.look(patiently.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	live("node-a", "node-b", "node-c")
	c.Kill(c.Nodes[1])
	for len(s.deleted) == 0 && clock.now < time.Hour {
		live("node-a", "node-c")
	}
	if clock.now < 30*time.Second || clock.now > 2*time.Minute {
		t.Errorf("released after %s", clock.now)
	}
	slices.Sort(s.deleted)
	want := []string{"/api/v1/namespaces/shop/pods/ours", "/apis/storage.k8s.io/v1/volumeattachments/ours"}
	if !slices.Equal(s.deleted, want) {
		t.Errorf("deleted %v", s.deleted)
	}
	if s.grace[want[0]] != float64(0) || s.grace[want[1]] != nil {
		t.Errorf("grace is %v", s.grace)
	}
	if len(s.events) != 2 || s.events[0].InvolvedObject.Kind != "Node" || s.events[1].InvolvedObject.Name != "ours" || !strings.Contains(s.events[1].Message, "node-b is gone") {
		t.Errorf("events are %+v", s.events)
	}
	tainted := func() bool {
		raw, _ := json.Marshal(s.objects["/api/v1/nodes/node-b"])
		return strings.Contains(string(raw), `"key":"node.kubernetes.io/out-of-service"`)
	}
	if !tainted() {
		t.Error("the node has no taint")
	}
	c.Revive(c.Nodes[1])
	for tainted() && clock.now < time.Hour {
		live("node-a", "node-b", "node-c")
	}
	if tainted() {
		t.Error("the node is back, and still has the taint")
	}
}

// healthy waits until the volume db has all of its replicas, and returns their nodes.
// Who takes a node away earlier finds it without a replica there.
func healthy(t *testing.T, c *csitest.Cluster, volumes holdfastv1connect.VolumeServiceClient, replicas int) (nodes []string) {
	t.Helper()
	c.Until("db is healthy", func() bool {
		v, err := volumes.GetVolume(patiently.Context(t), &holdfastv1.GetVolumeRequest{Volume: "db"})
		if err != nil {
			t.Fatal(err)
		}
		nodes = nil
		for _, r := range v.Status.Replicas {
			nodes = append(nodes, r.NodeId)
		}
		return len(nodes) == replicas && v.Status.Health == holdfastv1.Health_HEALTH_HEALTHY
	})
	return nodes
}

func TestClaimsSayWhatIsWrongOnce(t *testing.T) {
	c, s, kube := stage(t)
	volumes := holdfastv1connect.NewVolumeServiceClient(c.Client, c.URL)
	_, err := volumes.CreateVolume(patiently.Context(t), &holdfastv1.CreateVolumeRequest{Name: "db", Labels: map[string]string{"namespace": "shop", "pvc": "data"},
		Spec: &holdfastv1.VolumeSpec{SizeBytes: 1 << 20, Replicas: 3}})
	if err != nil {
		t.Fatal(err)
	}
	m := &Monitor{Kube: kube, Volumes: volumes, Log: slog.New(slog.DiscardHandler)}
	healthy(t, c, volumes, 3)
	c.Kill(c.Nodes[2])
	about := func() (all []event) {
		if err := m.tell(patiently.Context(t)); err != nil {
			t.Fatal(err)
		}
		for _, e := range s.events {
			if strings.Contains(e.Message, "node-c") {
				all = append(all, e)
			}
		}
		return all
	}
	c.Until("an event about node-c", func() bool { return len(about()) > 0 })
	for range 3 {
		if all := about(); len(all) != 1 || all[0].InvolvedObject.Name != "data" || all[0].InvolvedObject.Namespace != "shop" {
			t.Fatalf("events are %+v", all)
		}
	}
	// What may have passed by the next look is not spoken of.
	m.wrong, m.told, s.events = nil, nil, nil
	if all := about(); len(all) != 0 {
		t.Errorf("at the first look there are events: %+v", all)
	}
	if all := about(); len(all) != 1 {
		t.Errorf("at the second look there are events: %+v", all)
	}
}

func TestPodsPreferNodesThatHoldTheirData(t *testing.T) {
	c, s, kube := stage(t)
	volumes := holdfastv1connect.NewVolumeServiceClient(c.Client, c.URL)
	_, err := volumes.CreateVolume(patiently.Context(t), &holdfastv1.CreateVolumeRequest{Name: "db", Spec: &holdfastv1.VolumeSpec{SizeBytes: 1 << 20, Replicas: 2}})
	if err != nil {
		t.Fatal(err)
	}
	holders := healthy(t, c, volumes, 2)
	h := httptest.NewServer(&Extender{Kube: kube, Volumes: volumes, Log: slog.New(slog.DiscardHandler)})
	defer h.Close()
	p, _ := json.Marshal(s.objects["/api/v1/namespaces/shop/pods/ours"])
	answer, err := http.Post(h.URL+"/prioritize", plainJSON, strings.NewReader(`{"Pod":`+string(p)+`,"NodeNames":["node-a","node-b","node-c"]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var scores []hostScore
	if err := json.NewDecoder(answer.Body).Decode(&scores); err != nil || len(scores) != 3 {
		t.Fatal(scores, err)
	}
	for i, n := range c.Nodes {
		want := int64(0)
		if slices.Contains(holders, n.ID) {
			want = scoreMax
		}
		if scores[i].Host != n.Name || scores[i].Score != want {
			t.Errorf("%+v, want %d", scores[i], want)
		}
	}
}

func TestKubeletLearnsWhereTheDriverIs(t *testing.T) {
	dir := t.TempDir()
	r := &Registrar{Kubelet: dir, Socket: Socket(dir), Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(patiently.Context(t))
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "plugins_registry", csi.DriverName+"-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var info registration.PluginInfo
	if err := conn.Invoke(ctx, "/pluginregistration.Registration/GetInfo", &registration.InfoRequest{}, &info, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if info.Type != "CSIPlugin" || info.Name != csi.DriverName || info.Endpoint != filepath.Join(dir, "plugins", csi.DriverName, "csi.sock") {
		t.Errorf("got %v", &info)
	}
	if err := conn.Invoke(ctx, "/pluginregistration.Registration/NotifyRegistrationStatus", &registration.RegistrationStatus{PluginRegistered: true}, &registration.RegistrationStatusResponse{}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := patiently.From(t, done); err != nil {
		t.Error(err)
	}
}
