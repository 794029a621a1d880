package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/pool"
)

// finding is what one look at this machine gave.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // ok, warning or error
	What  string `json:"what"`
	Cure  string `json:"cure,omitempty"`
}

func fine(check, format string, args ...any) finding {
	return finding{check, "ok", fmt.Sprintf(format, args...), ""}
}

func doubtful(check, cure, format string, args ...any) finding {
	return finding{check, "warning", fmt.Sprintf(format, args...), cure}
}

func bad(check, cure, format string, args ...any) finding {
	return finding{check, "error", fmt.Sprintf(format, args...), cure}
}

func newDoctorCommand(r *remote) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong on this machine, and say the cure",
		Long: `Look at this machine as a node: kernel, devices, programs, clock, disk, memory
and pools; and, where a cluster can be reached, at its nodes' ports and at what
needs attention. Nothing is changed. The exit status is 4 when something is
wrong that keeps a node from working; a warning is no failure.`,
		Example: `  holdfast doctor
  holdfast doctor -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := append(machineFindings(dir), clusterFindings(cmd.Context(), r)...)
			err := r.out.print(found, func(t *table) {
				for _, f := range found {
					t.row(f.State, f.Check, f.What)
					if f.Cure != "" {
						t.row("", "", "cure: "+f.Cure)
					}
				}
			})
			if err != nil {
				return err
			}
			errors := 0
			for _, f := range found {
				if f.State == "error" {
					errors++
				}
			}
			if errors > 0 {
				return fault.WithCure(fault.Errorf("doctor", fault.Precondition, "%d things are wrong on this machine", errors), "do what is said at each, then run holdfast doctor again")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", filepath.Dir(poolsDir), "`directory` where the node keeps its data")
	return cmd
}

// machineFindings looks at this machine.
func machineFindings(dir string) (found []finding) {
	found = append(found, checkRoot(), checkKernel(), checkFile("fuse", "/dev/fuse", "load it: modprobe fuse"),
		checkFile("loop devices", "/dev/loop-control", "load it: modprobe loop"), checkRing(), checkPrograms(), checkClock(), checkDisk(dir), checkMemory())
	return append(found, checkPools(filepath.Join(dir, filepath.Base(poolsDir)))...)
}

func checkRoot() finding {
	if os.Geteuid() != 0 {
		return doubtful("user", "run it again with sudo", "this is not root: some of what follows can't be seen")
	}
	return fine("user", "root")
}

// kernelMin is the first kernel whose FUSE and loop devices do what attach needs.
var kernelMin = [2]int{5, 8}

func checkKernel() finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return bad("kernel", "", "its version can't be read: %v", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	if !atLeast(release, kernelMin) {
		return bad("kernel", fmt.Sprintf("use %d.%d or newer", kernelMin[0], kernelMin[1]), "Linux %s is too old", release)
	}
	return fine("kernel", "Linux %s", release)
}

// atLeast reports whether a release such as 6.1.0-18-amd64 is a version or newer.
func atLeast(release string, version [2]int) bool {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return false
	}
	major, _ := strconv.Atoi(parts[0]) // they are digits
	minor, _ := strconv.Atoi(parts[1])
	return major > version[0] || major == version[0] && minor >= version[1]
}

func checkFile(check, path, cure string) finding {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case os.IsNotExist(err):
		return bad(check, cure, "there is no %s", path)
	case os.IsPermission(err):
		return doubtful(check, "run this as root; in a container, give it the device", "%s can't be opened", path)
	case err != nil:
		return bad(check, cure, "%v", err)
	}
	_ = f.Close() // nothing was written
	return fine(check, "%s", path)
}

// checkRing asks for a ring without places, which no kernel makes: what it says instead
// tells whether it would make others.
func checkRing() finding {
	_, _, no := unix.Syscall(unix.SYS_IO_URING_SETUP, 0, 0, 0)
	switch no {
	case unix.ENOSYS:
		return doubtful("io_uring", "use a kernel that has it; everything works without, only slower", "this kernel has none")
	case unix.EPERM, unix.EACCES:
		return doubtful("io_uring", "sysctl kernel.io_uring_disabled=0, and let the container's seccomp profile allow it; everything works without, only slower", "it is forbidden here")
	}
	return fine("io_uring", "it is there")
}

func checkPrograms() finding {
	var missing []string
	for _, name := range []string{"mkfs.xfs", "mkfs.ext4", "mount", "umount", "xfs_growfs", "resize2fs"} {
		if _, err := exec.LookPath(name); err != nil {
			if _, err := os.Stat(filepath.Join("/usr/sbin", name)); err != nil {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		return doubtful("programs", "on Debian: apt-get install xfsprogs e2fsprogs mount", "missing: %s", strings.Join(missing, ", "))
	}
	return fine("programs", "those that make, grow and mount filesystems are there")
}

func checkClock() finding {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return doubtful("clock", "", "whether it is right can't be asked: %v", err)
	}
	if t.Status&unix.STA_UNSYNC != 0 {
		return doubtful("clock", "run chrony or systemd-timesyncd; certificates and schedules go by the clock", "nobody keeps it right")
	}
	return fine("clock", "it is kept right, to within %s", time.Duration(t.Maxerror)*time.Microsecond)
}

// What a node's own disk and memory should have.
const (
	diskFreeMin   = 2 << 30
	memoryFreeMin = 512 << 20
)

func checkDisk(dir string) finding {
	at := dir
	for at != "/" {
		if _, err := os.Stat(at); err == nil {
			break
		}
		at = filepath.Dir(at)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return bad("disk", "", "%s: %v", at, err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free < diskFreeMin {
		return doubtful("disk", "free some: etcd and its dumps need it", "%s free at %s", bytesText(free), at)
	}
	return fine("disk", "%s free at %s", bytesText(free), at)
}

func checkMemory() finding {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return doubtful("memory", "", "%v", err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // the kernel wrote it
			if kib<<10 < memoryFreeMin {
				return doubtful("memory", "end something, or give the machine more", "%s available", bytesText(kib<<10))
			}
			return fine("memory", "%s available", bytesText(kib<<10))
		}
	}
	return doubtful("memory", "", "what is available can't be read")
}

func checkPools(dir string) (found []finding) {
	reports, err := pool.List(dir)
	if fault.Is(err, fault.NotFound) || err == nil && len(reports) == 0 {
		return []finding{doubtful("pools", "make one: holdfast pool create "+filepath.Join(dir, "NAME"), "there is none in %s", dir)}
	}
	if err != nil {
		what, cure := fault.Describe(err)
		return []finding{doubtful("pools", cure, "%s", what)}
	}
	for _, p := range reports {
		check := "pool " + filepath.Base(p.Path)
		switch p.Health.State {
		case pool.Ready:
			found = append(found, fine(check, "%s of %s used", bytesText(p.Usage.Used), bytesText(p.Usage.Capacity)))
		case pool.Unmounted, pool.Full:
			found = append(found, doubtful(check, p.Health.Cure, "%s: %s", p.Health.State, p.Health.Reason))
		default:
			found = append(found, bad(check, p.Health.Cure, "%s: %s", p.Health.State, p.Health.Reason))
		}
	}
	return found
}

// clusterFindings looks at the cluster, where one can be reached.
func clusterFindings(ctx context.Context, r *remote) []finding {
	if !r.reachable() {
		return []finding{doubtful("node", "start one: holdfast up", "no node runs on this machine")}
	}
	c, err := client.Dial(r.options)
	if err != nil {
		return []finding{bad("API", "see --address, --token and --ca", "%v", err)}
	}
	defer c.Close()
	st, err := c.Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		what, cure := fault.Describe(explained(err, c.Address))
		return []finding{bad("API", cure, "%s", what)}
	}
	found := []finding{fine("API", "%s answers", c.Address)}
	for _, a := range st.Attention {
		found = append(found, doubtful(a.Kind+" "+a.Name, "", "%s", a.Message))
	}
	nodes, err := allNodes(ctx, c, &v1.ListNodesRequest{})
	if err != nil {
		what, cure := fault.Describe(explained(err, c.Address))
		return append(found, bad("API", cure, "%s", what))
	}
	names := map[string]string{}
	for _, n := range nodes {
		names[n.GetMeta().GetId()] = n.GetMeta().GetName()
		found = append(found, checkPorts(ctx, n)...)
	}
	for _, m := range st.GetMetadata().GetMembers() {
		if u, err := url.Parse(m.Address); err == nil && u.Host != "" {
			found = append(found, checkPort(ctx, "metadata of node "+cmp.Or(names[m.NodeId], m.NodeId, "outside"), u.Host)...)
		}
	}
	return found
}

// dialTimeout is how long a port may take to answer.
const dialTimeout = 2 * time.Second

// checkPorts connects to what a node says that it listens on.
func checkPorts(ctx context.Context, n *v1.Node) (found []finding) {
	if n.GetStatus().GetState() != v1.NodeState_NODE_STATE_UP {
		return nil // it is down: that has been said
	}
	name := n.GetMeta().GetName()
	return append(checkPort(ctx, "API of node "+name, n.Status.ApiAddress), checkPort(ctx, "data of node "+name, n.Status.DataAddress)...)
}

// checkPort connects to one address, if it is known.
func checkPort(ctx context.Context, what, address string) []finding {
	if address == "" {
		return nil
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return []finding{bad("port", "open it in the firewall between the two, and see that the address is right", "%s at %s can't be reached from here: %v", what, address, err)}
	}
	_ = conn.Close() // it answered
	return nil
}
