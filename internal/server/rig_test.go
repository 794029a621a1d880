package server_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/trust"
)

func detail(err error) *v1.Fault { return rpc.Detail(err) }

// patience is the wait of calls that should be answered at once.
var patience = durationpb.New(servertest.Patience)

// start starts a cluster of nodes.
func start(t *testing.T, nodes int) *servertest.Cluster {
	t.Helper()
	c := servertest.Start(t, servertest.Options{})
	c.Stage.Nodes(nodes)
	return c
}

// volume makes a volume that can be used.
func volume(t *testing.T, c *servertest.Cluster, name string, replicas int32) *v1.Volume {
	t.Helper()
	v, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: name, Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: replicas}, Wait: patience})
	c.Must(err)
	return v
}

// refused ends the test unless err has the code, and names the cure.
func refused(t *testing.T, err error, code connect.Code, cure string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Fatalf("want %v, got %v", code, err)
	}
	if got := detail(err).GetCure(); !strings.Contains(got, cure) {
		t.Errorf("the cure of %v is %q, want %q", err, got, cure)
	}
}

// until looks until what is looked for is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	end := time.After(servertest.Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not %s after %s", what, servertest.Patience)
		}
	}
}

// csr makes a certificate request.
func csr(t *testing.T) []byte {
	t.Helper()
	key, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := trust.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
