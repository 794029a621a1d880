package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// exports is the part of the cluster's life in which clients of NBD use a volume: over a
// Unix socket, over TCP with certificates, through the death of the process that serves
// them, until another node takes it.
func (c *cluster) exports(t *testing.T) {
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.mustCLI("volume", "create", "image", "--size", "64Mi", "--repl", "2", "--nodes", "n1,n2")
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	sh(t, `truncate -s 64M "$1"; dd if=/dev/urandom of="$1" bs=1M count=9 seek=30 conv=notrunc status=none`, image)

	out := n1.mustCLI("volume", "export", "image")
	uri := "nbd+unix:///image?socket=" + n1.path("run/export/image.sock")
	if !strings.Contains(out, uri) {
		t.Errorf("the command says\n%s\nand not %s", out, uri)
	}
	sh(t, `timeout 60 nbdcopy --flush "$1" "$2"`, image, uri)
	n1.restarts("data", n1.kill)
	c.await("the export is there again", func(context.Context) bool { return exec.Command("nbdinfo", "--size", uri).Run() == nil })
	if got := strings.Fields(sh(t, `timeout 60 nbdinfo --map "$1" | awk '$3 == 0 {print $1, $2}'`, uri)); len(got) != 2 || got[0] != "31457280" || got[1] != "9437184" {
		t.Errorf("data is seen at %q, want 9 MiB at 30 MiB", got)
	}
	sh(t, `timeout 60 qemu-img compare -f raw -F raw "$1" "$2"`, image, uri)
	if out, err := n1.cli("volume", "mount", "image", n1.path("mnt")); err == nil || !strings.Contains(out, "exported") {
		t.Errorf("mounting an export: %v\n%s", err, out)
	}
	if out, err := n2.cli("volume", "attach", "image"); err == nil || !strings.Contains(out, "attached to node n1") {
		t.Errorf("attaching it elsewhere: %v\n%s", err, out)
	}
	c.detach("image")

	n1.mustCLI("volume", "export", "image", "--listen", ":10809")
	address := "nbds://" + n1.address() + ":10809/image"
	if out := n1.mustCLI("volume", "get", "image", "-o", "wide"); !strings.Contains(out, address) {
		t.Errorf("the volume is not shown to be at %s:\n%s", address, out)
	}
	sh(t, `cp "$1/ca.pem" "$2/ca-cert.pem"
		openssl x509 -in "$1/node.pem" -out "$2/client-cert.pem"
		openssl pkey -in "$1/node.pem" -out "$2/client-key.pem"`, n2.path("data/trust"), dir)
	sh(t, `timeout 60 nbdcopy "$1?tls-certificates=$2" - | cmp - "$3"`, address, dir, image)
	none := t.TempDir()
	sh(t, `cp "$1/ca-cert.pem" "$2"`, dir, none)
	for _, wrong := range []string{address + "?tls-certificates=" + none, "nbd://" + n1.address() + ":10809/image"} {
		if out, err := exec.CommandContext(t.Context(), "timeout", "60", "nbdinfo", "--size", wrong).CombinedOutput(); err == nil {
			t.Errorf("%s is let in: %s", wrong, out)
		}
	}

	// A client that is at work, when n2 takes the volume from n1, which lives.
	c.detach("image")
	n1.mustCLI("volume", "export", "image")
	client := exec.CommandContext(t.Context(), "fio", "--name=x", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k", "--size=16M", "--time_based", "--runtime=600")
	client.Dir = dir
	must(t, client.Start())
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	c.await("the client writes, as another node says", func(context.Context) bool {
		return n2.writes("image", "--total") > 0
	})
	device := n2.take("image", "").Status.Device
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the client saw no error")
		}
	case <-time.After(patience):
		t.Error("the client of the node that lost the volume is still served")
	}
	if _, err := os.Lstat(n1.path("run/export/image.sock")); err == nil {
		t.Error("the socket is still there")
	}
	sh(t, `cmp -i 16M "$1" "$2"`, device, image) // below that the client wrote
	n2.awaitHealth("image", v1.Health_HEALTH_HEALTHY)
	c.detach("image")
	n1.mustCLI("volume", "delete", "image")
}
