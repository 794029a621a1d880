package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// TestDevices takes from one node, one after the other, what its devices depend on, and
// looks at what their users see, and at what the node says of them.
func TestDevices(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	own := newAuthority(t, "own")
	own.certify(t, "server", "subjectAltName=IP:"+c.next().address())
	own.certify(t, "client", "extendedKeyUsage=clientAuth")
	c.args = []string{"--export-ca", own.file("ca-cert.pem"), "--export-cert", own.file("server-cert.pem"), "--export-key", own.file("server-key.pem")}
	c.grow(1)
	n := c.nodes[0]
	n.mustCLI("volume", "create", "raw", "--size", "64Mi", "--repl", "1")
	n.mustCLI("volume", "create", "fs", "--size", "128Mi", "--repl", "1")
	dir := n.path("mnt-fs")

	c.during(t, "ClientsWithCertificatesOfYoursAreLetInAndOthersAreNot", func(t *testing.T) { n.exportsWithOwnCertificates(t, own) })

	c.during(t, "DevicesAreAsVolumesAndCommandsSay", n.devicesAsWished)

	device := n.attach("raw")
	n.mount("fs")
	raw, file := newWriter(t, device, 0), newWriter(t, filepath.Join(dir, "file"), 0)
	c.during(t, "LimitsHoldADeviceBack", func(t *testing.T) {
		raw.goesOn(c)
		n.mustCLI("volume", "update", "raw", "--write-iops", "100")
		c.await("the device keeps to its limit, and goes on", func(context.Context) bool {
			w := n.writes("raw", "--over", "500ms")
			return w > 0 && w <= 100*0.5+30 // what may be done at once is more, for a moment
		})
		n.mustCLI("volume", "update", "raw", "--write-iops", "0")
		raw.goesOn(c)
	})

	c.during(t, "DevicesGoOnWhenTheirKeeperDies", func(t *testing.T) {
		raw.goesOn(c)
		n.restarts("keeper", n.kill)
		raw.goesOn(c)
		file.goesOn(c)
		c.await("the new keeper has the devices", n.keeps("fs", "raw"))
		n.restarts("data", n.kill) // from which only a keeper saves them
		raw.goesOn(c)
		file.goesOn(c)
	})

	c.during(t, "OneCommandBringsBackWhatDiedWithKeeperAndDataProcess", func(t *testing.T) {
		must(t, n.cmd.Process.Signal(syscall.SIGSTOP)) // so that neither is there again before the other dies
		n.kill("data")
		n.kill("keeper")
		var err error
		if raw.ended(c, &err); !errors.Is(err, syscall.EIO) {
			t.Errorf("who wrote to the device got %v, want EIO", err)
		}
		if file.ended(c, &err); err == nil {
			t.Error("who wrote to the file got no error")
		}
		must(t, n.cmd.Process.Signal(syscall.SIGCONT))
		n.mustCLI("volume", "attach", "fs", "--mount", dir)
		file.verify(t, file.path)
		n.mustCLI("volume", "attach", "raw")
		raw.verify(t, device)
		again := newWriter(t, file.path, file.acked.Load())
		again.goesOn(c)
		must(t, again.end(c))
		file = again
	})

	want := []row{{"fs", n.path("dev/fs"), dir}, {"raw", device, ""}}
	c.during(t, "TheTableIsTrueAfterTheDataProcessRestarts", func(t *testing.T) {
		n.awaitTable(want)
		n.restarts("data", n.kill)
		n.awaitTable(want)
	})

	c.during(t, "TheTableIsTrueAfterAPlannedRestart", func(t *testing.T) {
		n.stop()
		n.holds(t, want) // nobody serves, and all is in its place
		c.args = append(c.args, "--io-wait", "1s")
		n.start()
		n.awaitTable(want)
		file.verify(t, file.path)
	})

	c.during(t, "LeftoversOfACrashedNodeGoAndTheTableIsTrue", func(t *testing.T) {
		byHand := n.path("by-hand")
		must(t, os.Mkdir(byHand, 0o700))
		sh(t, `mount "$1" "$2"`, n.path("dev/fs"), byHand)
		n.crash()
		must(t, os.Symlink("/dev/loop1000000", n.path("dev/stale")))
		n.start()
		n.awaitTable(want)
		if mounted(byHand) {
			t.Error("a dead device is mounted still")
		}
		if _, err := os.Lstat(n.path("dev/stale")); err == nil {
			t.Error("a link to a dead device is there still")
		}
		if all := n.devices(t); len(all) != len(want) {
			t.Errorf("there are devices %v, want %d", all, len(want))
		}
		file.verify(t, file.path)
		raw.verify(t, device)
	})

	c.during(t, "IOFailsVisiblyWhenNobodyServesForTheTimeThatIsSet", func(t *testing.T) {
		n.daemonDown()
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
		must(t, err)
		buf, ended := aligned(t, blockSize), make(chan error, 1)
		go func() {
			_, err := f.ReadAt(buf, 0)
			ended <- errors.Join(err, f.Close())
		}()
		if err := patiently.From(t, ended); !errors.Is(err, syscall.EIO) { // before the two minutes are over, let alone ten
			t.Errorf("with --io-wait 1s, a read that nobody serves ended with %v, want EIO", err)
		}
		n.start()
		c.await("the node is up", func(ctx context.Context) bool { return n.isUp(ctx, n.name) })
		n.mustCLI("volume", "attach", "fs", "--mount", dir)
		n.awaitTable(want)
		file.verify(t, file.path)
		raw.verify(t, device)
	})
}

// writes returns how many a volume has had, as a command says.
func (n *node) writes(volume string, args ...string) int {
	out, err := n.cli(append([]string{"volume", "stats", volume, "-o", "json"}, args...)...)
	n.c.saw = out
	var stats struct {
		Operations []struct {
			Operation string
			Count     int `json:",string"`
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &stats) != nil {
		return -1
	}
	for _, o := range stats.Operations {
		if o.Operation == "write" {
			return o.Count
		}
	}
	return -1
}

// devicesAsWished attaches volumes that were to be other than usual.
func (n *node) devicesAsWished(t *testing.T) {
	n.mustCLI("volume", "create", "sectors", "--size", "16Mi", "--repl", "1", "--sector", "512", "--nodiscard=true")
	device := n.attach("sectors")
	if got := sh(t, `blockdev --getss "$1"`, device); got != "512" {
		t.Errorf("its sectors have %s bytes", got)
	}
	if out, err := exec.CommandContext(t.Context(), "blkdiscard", device).CombinedOutput(); err == nil {
		t.Errorf("it takes discards: %s", out)
	}
	sh(t, `printf one | dd of="$1" bs=512 seek=3 conv=sync oflag=direct status=none; printf two | dd of="$1" bs=512 seek=4 conv=sync oflag=direct status=none`, device)
	n.mustCLI("volume", "detach", "sectors")
	n.mustCLI("volume", "attach", "sectors", "--read-only")
	if got := sh(t, `blockdev --getro "$1"; dd if="$1" bs=512 skip=3 count=2 iflag=direct status=none | tr -d '\000'`, device); got != "1\nonetwo" {
		t.Errorf("read-only, the device shows %q", got)
	}
	if out, err := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+device, "bs=4k", "count=1", "oflag=direct").CombinedOutput(); err == nil {
		t.Errorf("a device that is read-only was written: %s", out)
	}
	n.mustCLI("volume", "detach", "sectors")
	n.mustCLI("volume", "delete", "sectors", "--purge")
}

// row is what the node says of an attached volume.
type row struct{ volume, device, mount string }

// awaitTable waits until commands say these rows and nothing else, and they are true.
func (n *node) awaitTable(want []row) {
	n.c.t.Helper()
	n.c.await("the table of devices and mounts is what it was, and true", func(context.Context) bool {
		out, err := n.cli("volume", "list", "-o", "json")
		n.c.saw = out
		var volumes []struct {
			Meta   struct{ Name string }
			Status struct {
				Attachment struct{ State, Device, MountPath string }
			}
		}
		if err != nil || json.Unmarshal([]byte(out), &volumes) != nil || len(volumes) != len(want) {
			return false
		}
		for i, v := range volumes {
			a := v.Status.Attachment
			if (row{v.Meta.Name, a.Device, a.MountPath}) != want[i] || a.State != "ATTACHMENT_STATE_ATTACHED" {
				return false
			}
			if err := n.serving(want[i]); err != nil {
				n.c.saw = err.Error()
				return false
			}
		}
		return true
	})
	n.holds(n.c.t, want)
}

// serving returns why a row is not true: its device is read, and the mount is looked at.
func (n *node) serving(r row) error {
	read := fmt.Sprintf("dd if=%s of=/dev/null bs=4k count=1 iflag=direct", r.device)
	if r.mount != "" {
		read += "; ls " + r.mount + "/file"
	}
	if out, err := exec.Command("sh", "-euc", read).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", r.volume, err, out)
	}
	return nil
}

// holds compares rows with what the machine has: a device under each name, which is its
// volume's, and one mount, of that.
func (n *node) holds(t *testing.T, rows []row) {
	t.Helper()
	links, err := filepath.Glob(n.path("dev/[^.]*")) // hidden ones are about to get their names
	if err != nil || len(links) != len(rows) {
		t.Errorf("names of devices: %v, %v; want %d", links, err, len(rows))
	}
	for _, r := range rows {
		target, err := os.Readlink(r.device)
		must(t, err)
		if backing := sh(t, `losetup -nO BACK-FILE "$1"`, target); !strings.HasSuffix(backing, "."+r.volume) {
			t.Errorf("%s is %s, over %s", r.device, target, backing)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		must(t, err)
		if count := strings.Count(string(mounts), target+" "); count != strings.Count(string(mounts), target+" "+r.mount+" ") || count > 1 || (count == 1) != (r.mount != "") {
			t.Errorf("%s is mounted %d times, want it at %q", target, count, r.mount)
		}
	}
}

// keeps returns whether the node's keeper has these devices, and no others.
func (n *node) keeps(volumes ...string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		k, err := keeper.DialTool(ctx, n.path("run/keeper.sock"))
		if err != nil {
			n.c.saw = err.Error()
			return false
		}
		defer k.Close()
		list, err := k.List(ctx)
		n.c.saw = fmt.Sprint(list, err)
		for i, e := range list {
			if len(list) != len(volumes) || e.Name != volumes[i] || !e.Served {
				return false
			}
		}
		return err == nil && len(list) == len(volumes)
	}
}

// devices returns the loop devices that are the node's.
func (n *node) devices(t *testing.T) (paths []string) {
	t.Helper()
	all, err := loopdev.List()
	must(t, err)
	for _, d := range all {
		if name, ok := attach.ParseFileName(d.Backing); ok && name.Node == n.id {
			paths = append(paths, d.Path())
		}
	}
	return paths
}

// authority makes certificates of its own, in a directory that is as clients of libnbd
// want it.
type authority struct{ dir string }

func newAuthority(t *testing.T, name string) authority {
	a := authority{t.TempDir()}
	sh(t, `cd "$1"; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$2" -keyout ca-key.pem -out ca-cert.pem`, a.dir, name)
	return a
}

func (a authority) file(name string) string { return filepath.Join(a.dir, name) }

// certify makes a certificate and its key.
func (a authority) certify(t *testing.T, name, extension string) {
	t.Helper()
	sh(t, `cd "$1"; openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$2-key.pem" -out "$2.csr"
		printf '%s\n' "$3" >"$2.ext"
		openssl x509 -req -in "$2.csr" -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile "$2.ext" -out "$2-cert.pem"`, a.dir, name, extension)
}

// exportsWithOwnCertificates has clients of NBD come with certificates of several kinds to a
// node whose exports have an authority of their own.
func (n *node) exportsWithOwnCertificates(t *testing.T, own authority) {
	n.mustCLI("volume", "export", "raw", "--listen", ":10809")
	at := "nbds://" + n.address() + ":10809/raw"
	with := func(dir string) string { return at + "?tls-certificates=" + dir }
	image := filepath.Join(t.TempDir(), "image")
	sh(t, `dd if=/dev/urandom of="$1" bs=1M count=64 status=none; timeout 60 nbdcopy --flush "$1" "$2"; timeout 60 nbdcopy "$2" - | cmp - "$1"`, image, with(own.dir))
	if size := sh(t, `timeout 60 nbdinfo --size "$1"`, with(own.dir)); size != itoa(int64(64<<20)) {
		t.Errorf("nbdinfo sees %s bytes", size)
	}

	stranger := newAuthority(t, "stranger")
	stranger.certify(t, "client", "extendedKeyUsage=clientAuth")
	mixed := func(ca, certificate string) string {
		dir := t.TempDir()
		sh(t, `cp "$1" "$3/ca-cert.pem"; [ -z "$2" ] || cp "$2"/client-cert.pem "$2"/client-key.pem "$3"`, ca, certificate, dir)
		return dir
	}
	node := t.TempDir() // what the cluster's nodes prove themselves with does not count here
	sh(t, `openssl x509 -in "$1/node.pem" -out "$2/client-cert.pem"; openssl pkey -in "$1/node.pem" -out "$2/client-key.pem"`, n.path("data/trust"), node)
	for who, uri := range map[string]string{
		"a client of another authority":            with(mixed(own.file("ca-cert.pem"), stranger.dir)),
		"a client without a certificate":           with(mixed(own.file("ca-cert.pem"), "")),
		"a node of the cluster":                    with(mixed(own.file("ca-cert.pem"), node)),
		"a client that trusts another authority":   with(mixed(stranger.file("ca-cert.pem"), own.dir)),
		"a client that trusts the cluster's nodes": with(mixed(n.path("data/trust/ca.pem"), own.dir)),
		"a client without TLS":                     "nbd://" + n.address() + ":10809/raw",
	} {
		if out, err := exec.CommandContext(t.Context(), "timeout", "60", "nbdinfo", "--size", uri).CombinedOutput(); err == nil {
			t.Errorf("%s gets in: %s", who, out)
		}
	}
	n.mustCLI("volume", "detach", "raw")
}
