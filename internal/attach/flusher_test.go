package attach

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

const flusherArg = "become-io-flusher"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == flusherArg {
		err := BecomeIOFlusher()
		on, _ := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0) // fails where the other did
		fmt.Println(err == nil, on == 1, fault.KindOf(err))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A process either is an I/O flusher after the call, or is told why not.
func TestIOFlusherOrDenied(t *testing.T) {
	out, err := exec.Command(os.Args[0], flusherArg).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	switch string(out) {
	case fmt.Sprintln(true, true, fault.Unknown), fmt.Sprintln(false, false, fault.Denied), fmt.Sprintln(false, false, fault.Unsupported):
	default:
		t.Errorf("the process says %q", out)
	}
}

func TestFileNamesAreReadBack(t *testing.T) {
	n := NewFileName([16]byte{0xab, 0xcd, 1, 2, 3}, 77, "pvc.1-x_y")
	if got := n.String(); got != "holdfast.abcd0102.77.pvc.1-x_y" {
		t.Errorf("the name is %q", got)
	}
	for _, s := range []string{n.String(), "/" + n.String()} {
		if got, ok := ParseFileName(s); !ok || got != n {
			t.Errorf("%q became %+v", s, got)
		}
	}
	for _, s := range []string{"", "/", "holdfast.", "holdfast.abcd0102.77.", "holdfast.abcd0102.x.vol", "holdfast.abcd.77.vol",
		"holdfast.abcd0102.-1.vol", "/dir/holdfast.abcd0102.77.vol", "holdfast.abcd0102.99999999999.vol"} {
		if got, ok := ParseFileName(s); ok {
			t.Errorf("%q became %+v", s, got)
		}
	}
}

func TestLinksAreReplacedAndOnlyOwnOnesRemoved(t *testing.T) {
	dir := t.TempDir() + "/dev"
	for _, device := range []string{"/dev/loop1", "/dev/loop2"} {
		link, err := Link(dir, "vol", device)
		if err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(link); err != nil || target != device || link != dir+"/vol" {
			t.Errorf("%s leads to %q (%v), want %s", link, target, err, device)
		}
	}
	if err := Unlink(dir, "vol", "/dev/loop1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Readlink(dir + "/vol"); err != nil {
		t.Error("another device's link was removed")
	}
	for range 2 {
		if err := Unlink(dir, "vol", "/dev/loop2"); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left: %v (%v)", entries, err)
	}
}
