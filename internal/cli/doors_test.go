package cli_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-io/holdfast/internal/cli"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// open runs a command that serves, and returns a way to end it.
func open(t *testing.T, args ...string) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var said bytes.Buffer
	status := make(chan int, 1)
	go func() { status <- cli.Main(ctx, args, cli.Streams{In: strings.NewReader(""), Out: &said, Err: &said}) }()
	return func() int {
		cancel()
		s := patiently.From(t, status)
		if s != 0 {
			t.Log(said.String())
		}
		return s
	}
}

func TestCSIServesANodeAndTellsItsKubelet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loop devices and mounts need root")
	}
	c, kubelet := csitest.Start(t, 1), t.TempDir()
	stop := open(t, "csi", "--api", "unix://"+c.Socket, "--node", c.Nodes[0].Name, "--kubelet", kubelet, "--dir", t.TempDir())
	for _, socket := range []string{"plugins/csi.holdfast.io/csi.sock", "plugins_registry/csi.holdfast.io-reg.sock"} {
		conn, err := grpc.NewClient("unix://"+filepath.Join(kubelet, socket), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if strings.HasPrefix(socket, "plugins/") {
			info, err := spec.NewNodeClient(conn).NodeGetInfo(patiently.Context(t), &spec.NodeGetInfoRequest{}, grpc.WaitForReady(true))
			if err != nil || info.NodeId != c.Nodes[0].ID || info.AccessibleTopology.Segments[csi.TopologyNode] != "node-a" {
				t.Errorf("the node is %v, %v", info, err)
			}
			continue
		}
		var nothing spec.NodeGetInfoRequest
		if err := conn.Invoke(patiently.Context(t), "/pluginregistration.Registration/NotifyRegistrationStatus", &nothing, &spec.NodeGetInfoRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
	}
	if s := stop(); s != 0 {
		t.Errorf("it ended with %d", s)
	}
}

func TestDockerServesItsSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loop devices and mounts need root")
	}
	c, dir := csitest.Start(t, 1), t.TempDir()
	socket := filepath.Join(dir, "holdfast.sock")
	stop := open(t, "docker", "--api", "unix://"+c.Socket, "--node", c.Nodes[0].Name, "--socket", socket, "--root", filepath.Join(dir, "v"), "--dir", dir)
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	patiently.Until(t, func() error { // it listens
		answer, err := client.Post("http://plugin/Plugin.Activate", "application/json", nil)
		if err == nil && answer.StatusCode != http.StatusOK {
			t.Errorf("got %v", answer)
		}
		return err
	})
	if s := stop(); s != 0 {
		t.Errorf("it ended with %d", s)
	}
}

func TestPluginOfKubectlRunsOnTheCluster(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	var out bytes.Buffer
	status := cli.Main(context.Background(), append([]string{}, cli.PluginArgs([]string{"volume", "list", "-o", "json"})...), cli.Streams{Out: &out, Err: &out})
	if want := "exec -i -n holdfast daemonset/holdfast -c node -- holdfast volume list -o json\n"; status != 0 || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%d: %q", status, out.String())
	}
}
