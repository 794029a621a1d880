package host_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// TestPoolServesWhereRingIsForbidden runs a child that may not call io_uring_setup, as
// in a container with Docker's seccomp profile.
func TestPoolServesWhereRingIsForbidden(t *testing.T) {
	child, out := startChild(t, "forbidden", "auto", t.TempDir())
	var said strings.Builder
	if _, err := out.WriteTo(&said); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil || said.String() != "pool\n" {
		t.Fatalf("the child said %q: %v", said.String(), err)
	}
}

func workWithoutRing(root, _ string) error {
	if err := forbidRing(); err != nil {
		return err
	}
	if _, err := host.Open(root, host.Options{Engine: host.EngineRing}); !fault.Is(err, fault.Unsupported) {
		return fmt.Errorf("asking for the ring: %w, want unsupported", err)
	}
	d, err := host.Open(root, host.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	file := &host.Op{Kind: host.OpOpen, Path: "file", Flags: host.Create}
	if err := host.Do(d, file); err != nil {
		return err
	}
	written, read := []byte("without a ring"), make([]byte, 14)
	if err := host.Do(d, &host.Op{Kind: host.OpWrite, File: file.File, Buf: written}); err != nil {
		return err
	}
	if err := host.Do(d, &host.Op{Kind: host.OpRead, File: file.File, Buf: read}); err != nil {
		return err
	}
	if !bytes.Equal(written, read) {
		return fmt.Errorf("read %q", read)
	}
	if d.Loop().WhyNoRing() == nil {
		return errors.New("the loop does not say why it has no ring")
	}
	fmt.Println(d.Loop().Engine())
	return nil
}

// forbidRing makes io_uring_setup answer EPERM in all threads of this process, for ever.
func forbidRing() error {
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const allow, refuse = 0x7fff0000, 0x00050000 | uint32(unix.EPERM)
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the system call
		{Code: equal, K: unix.SYS_IO_URING_SETUP, Jf: 1},
		{Code: answer, K: refuse},
		{Code: answer, K: allow},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setFilter, allThreads = 1, 1
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, setFilter, allThreads, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
