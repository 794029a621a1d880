package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

const socketEnv = "HOLDFAST_KEEPER_TEST_SOCKET"

// TestMain is also a keeper, when a test starts the binary again.
func TestMain(m *testing.M) {
	if path := os.Getenv(socketEnv); path != "" {
		os.Exit(Main([]string{"--socket", path}))
	}
	os.Exit(m.Run())
}

// serveKeeper runs a keeper in this process until the test ends.
func serveKeeper(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keeper.sock")
	l, lock, err := listen(path)
	must(t, err)
	k := newKeeper(func(string, ...any) {})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go k.serve(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		patiently.From(t, ended)
		lock.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, e := range k.entries {
			e.served() // no timer outlives the test
		}
	})
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dialed(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(patiently.Context(t), path)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// pipe returns a file, and a function that waits until no process has it open.
func pipe(t *testing.T) (file int, closed func()) {
	t.Helper()
	var fds [2]int
	must(t, unix.Pipe2(fds[:], unix.O_CLOEXEC))
	end := os.NewFile(uintptr(fds[0]), "pipe")
	t.Cleanup(func() { end.Close() })
	return fds[1], func() {
		t.Helper()
		var err error
		patiently.Return(t, func() { _, err = io.Copy(io.Discard, end) })
		must(t, err)
	}
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return st.Ino
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("got %v, want it %v", err, kind)
	}
}

func TestFilesOutliveTheirProcess(t *testing.T) {
	ctx, path := patiently.Context(t), serveKeeper(t)
	first := dialed(t, path)
	a, _ := pipe(t)
	b, _ := pipe(t)
	must(t, first.Put(ctx, Entry{Name: "vol", Meta: "m1"}, []int{a, b}))
	want := [2]uint64{inode(t, a), inode(t, b)}
	packet.CloseAll([]int{a, b})
	first.Close()

	second := dialed(t, path)
	list, err := second.List(ctx)
	must(t, err)
	if len(list) != 1 || list[0] != (Entry{Name: "vol", Meta: "m1"}) {
		t.Errorf("the list is %+v", list)
	}
	e, files, err := second.Get(ctx, "vol")
	must(t, err)
	if e.Meta != "m1" || e.Clean || e.Served || len(files) != 2 || files[1] < files[0] {
		t.Fatalf("got %+v with %v", e, files)
	}
	if got := [2]uint64{inode(t, files[0]), inode(t, files[1])}; got != want {
		t.Errorf("got files %v, want %v", got, want)
	}
	packet.CloseAll(files)
	must(t, second.Remove(ctx, "vol"))
	if list, err := second.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("after the removal the list is %+v (%v)", list, err)
	}
	_, _, err = second.Get(ctx, "vol")
	wantKind(t, err, fault.NotFound)
}

func TestPutReplacesAndRemoveCloses(t *testing.T) {
	ctx, c := patiently.Context(t), dialed(t, serveKeeper(t))
	old, oldClosed := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol"}, []int{old}))
	packet.CloseAll([]int{old})
	next, nextClosed := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol", Meta: "2"}, []int{next}))
	packet.CloseAll([]int{next})
	oldClosed()
	must(t, c.Remove(ctx, "vol"))
	nextClosed()
	must(t, c.Remove(ctx, "vol"))
}

func TestOneDataProcessAtATime(t *testing.T) {
	path := serveKeeper(t)
	first := dialed(t, path)
	type result struct {
		i   int
		c   *Client
		err error
	}
	admitted := make(chan result)
	enter := func(ctx context.Context, i int) {
		go func() {
			c, err := Dial(ctx, path)
			admitted <- result{i, c, err}
		}()
	}
	gaveUp, giveUp := context.WithCancel(patiently.Context(t))
	enter(gaveUp, 1)
	giveUp()
	if r := patiently.From(t, admitted); !fault.Is(r.err, fault.Canceled) {
		t.Fatalf("a newcomer that gave up: %v", r.err)
	}
	enter(patiently.Context(t), 2)
	tool, err := DialTool(patiently.Context(t), path) // need not wait
	must(t, err)
	tool.Close()
	select {
	case <-admitted:
		t.Fatal("admitted beside the first")
	default:
	}
	enter(patiently.Context(t), 3)
	first.Close()
	one := patiently.From(t, admitted)
	must(t, one.err)
	select {
	case <-admitted:
		t.Fatal("two were admitted")
	default:
	}
	one.c.Close()
	other := patiently.From(t, admitted)
	must(t, other.err)
	other.c.Close()
	patiently.From(t, other.c.Lost())
}

func TestCleanSaysHowItWasLeft(t *testing.T) {
	ctx, path := patiently.Context(t), serveKeeper(t)
	fd, _ := pipe(t)
	c := dialed(t, path)
	must(t, c.Put(ctx, Entry{Name: "vol", Clean: true, Served: true}, []int{fd})) // lies are not believed
	take := func(clean bool) {
		t.Helper()
		c.Close()
		c = dialed(t, path)
		e, files, err := c.Get(ctx, "vol")
		must(t, err)
		if e.Clean != clean || e.Served {
			t.Errorf("got %+v, want it clean: %v", e, clean)
		}
		must(t, c.Put(ctx, e, files))
		packet.CloseAll(files)
	}
	take(false)
	must(t, c.Release(ctx, "vol", true))
	take(true)
	take(false)
	must(t, c.Release(ctx, "vol", true))
	c.Close()
	c = dialed(t, path) // and does not serve it
	take(true)
	must(t, c.Release(ctx, "vol", false))
	take(false)
	wantKind(t, c.Release(ctx, "other", true), fault.NotFound)
}

func TestFilesThatNobodyServesAreClosedInTheEnd(t *testing.T) {
	ctx, path := patiently.Context(t), serveKeeper(t)
	c := dialed(t, path)
	fd, closed := pipe(t)
	kept, _ := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol", Wait: 20 * time.Millisecond}, []int{fd}))
	must(t, c.Put(ctx, Entry{Name: "other", Wait: time.Hour}, []int{kept}))
	for range 5 { // served again each time
		c.Close()
		c = dialed(t, path)
		e, files, err := c.Get(ctx, "vol")
		if fault.Is(err, fault.NotFound) {
			break // this machine was slower than the wait
		}
		must(t, err)
		must(t, c.Put(ctx, e, files))
		packet.CloseAll(files)
	}
	packet.CloseAll([]int{fd})
	c.Close()
	closed()
	c = dialed(t, path)
	list, err := c.List(ctx)
	must(t, err)
	if len(list) != 1 || list[0].Name != "other" {
		t.Errorf("the list is %+v", list)
	}
}

func TestReleasedFilesAreClosedInTheEnd(t *testing.T) {
	ctx, c := patiently.Context(t), dialed(t, serveKeeper(t))
	fd, closed := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol", Wait: time.Millisecond}, []int{fd}))
	must(t, c.Release(ctx, "vol", true))
	packet.CloseAll([]int{fd})
	closed()
}

func TestToolsLookAndTidy(t *testing.T) {
	ctx, path := patiently.Context(t), serveKeeper(t)
	c := dialed(t, path)
	fd, closed := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol"}, []int{fd}))
	packet.CloseAll([]int{fd})
	tool, err := DialTool(ctx, path)
	must(t, err)
	defer tool.Close()
	list, err := tool.List(ctx)
	must(t, err)
	if len(list) != 1 || !list[0].Served {
		t.Errorf("the list is %+v", list)
	}
	wantKind(t, tool.Put(ctx, Entry{Name: "x"}, nil), fault.Invalid)
	wantKind(t, tool.Remove(ctx, "vol"), fault.Unavailable) // it said what it must not

	tool, err = DialTool(ctx, path)
	must(t, err)
	defer tool.Close()
	_, _, err = tool.Get(ctx, "vol")
	wantKind(t, err, fault.Precondition)
	wantKind(t, tool.Remove(ctx, "vol"), fault.Busy)
	c.Close()
	dialed(t, path).Close() // the first has left by now
	must(t, tool.Remove(ctx, "vol"))
	closed()
}

func TestNonsenseIsRefused(t *testing.T) {
	ctx, path := patiently.Context(t), serveKeeper(t)
	c := dialed(t, path)
	for _, e := range []Entry{
		{Name: ""},
		{Name: string(bytes.Repeat([]byte("n"), NameLengthMax+1))},
		{Name: "vol", Meta: string(make([]byte, MetaBytesMax+1))},
		{Name: "vol", Wait: -1},
	} {
		wantKind(t, c.Put(ctx, e, nil), fault.Invalid)
	}
	wantKind(t, c.Put(ctx, Entry{Name: "vol"}, make([]int, FilesMax+1)), fault.Invalid)

	for _, text := range []string{"x", "{}", `{"verb":"list"}`, `{"verb":"hello"}`, `{"verb":"hello","max_version":1,"role":"boss"}`} {
		raw := rawConn(t, path)
		if _, err := raw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		var a answer
		if _, err := packet.Receive(raw, &a); err != nil {
			t.Fatal(err)
		}
		if err := a.Err("keeper"); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
	raw := rawConn(t, path)
	must(t, packet.Send(raw, request{Verb: "hello", MinVersion: 7, MaxVersion: 9, Role: roleData}, nil))
	var a answer
	_, err := packet.Receive(raw, &a)
	must(t, err)
	wantKind(t, a.Err("keeper"), fault.Unsupported)
}

func rawConn(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// keeperProcess starts a keeper in a process of its own.
func keeperProcess(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), socketEnv+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	patiently.True(t, "the keeper answers", func() bool { return answers(patiently.Context(t), path) })
	return cmd
}

func TestKeeperThatHoldsFilesWillNotEnd(t *testing.T) {
	ctx, path := patiently.Context(t), filepath.Join(t.TempDir(), "run", "keeper.sock")
	cmd := keeperProcess(t, path)
	c := dialed(t, path)
	if c.PID() != cmd.Process.Pid {
		t.Errorf("the keeper's process is %d, not %d", c.PID(), cmd.Process.Pid)
	}
	fd, _ := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol"}, []int{fd}))
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE} {
		must(t, cmd.Process.Signal(s))
	}
	list, err := c.List(ctx)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("the list is %+v", list)
	}
	must(t, c.Remove(ctx, "vol"))
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Wait())
	patiently.From(t, c.Lost())
	wantKind(t, c.Remove(ctx, "vol"), fault.Unavailable)
}

func TestKilledKeeperIsReplacedAndFilesArePutAgain(t *testing.T) {
	ctx, path := patiently.Context(t), filepath.Join(t.TempDir(), "keeper.sock")
	cmd := keeperProcess(t, path)
	c := dialed(t, path)
	fd, closed := pipe(t)
	must(t, c.Put(ctx, Entry{Name: "vol"}, []int{fd}))
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	patiently.From(t, c.Lost())
	_, err := Dial(ctx, path)
	wantKind(t, err, fault.Unavailable)
	next := keeperProcess(t, path)
	c = dialed(t, path)
	must(t, c.Put(ctx, Entry{Name: "vol"}, []int{fd}))
	packet.CloseAll([]int{fd})
	must(t, next.Process.Kill())
	_ = next.Wait() // killed
	closed()
}

func TestEnsureStartsOneKeeper(t *testing.T) {
	ctx, path := patiently.Context(t), filepath.Join(t.TempDir(), "keeper.sock")
	command := []string{"/usr/bin/env", socketEnv + "=" + path, os.Args[0]}
	results := make(chan error)
	for range 4 {
		go func() { results <- Ensure(ctx, path, command, nil) }()
	}
	for range 4 {
		must(t, patiently.From(t, results))
	}
	tool, err := DialTool(ctx, path)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Kill(tool.PID(), syscall.SIGKILL) }) // it is gone already
	must(t, syscall.Kill(tool.PID(), syscall.SIGTERM))
	patiently.From(t, tool.Lost())
	other := filepath.Join(t.TempDir(), "keeper.sock")
	wantKind(t, Ensure(ctx, other, []string{"/bin/false"}, nil), fault.Unavailable)
	if err := Ensure(ctx, other, []string{filepath.Join(t.TempDir(), "nothing")}, nil); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestAKeeperThatDoesNotAnswerIsNamed(t *testing.T) {
	began, cancel := context.WithCancel(t.Context())
	path, begun := filepath.Join(t.TempDir(), "keeper.sock"), filepath.Join(t.TempDir(), "begun")
	must(t, unix.Mkfifo(begun, 0o600))
	go func() {
		_, _ = os.ReadFile(begun) // until the one that is started, and never listens, has opened it
		cancel()
	}()
	err := Ensure(began, path, []string{"/bin/sh", "-c", "echo > " + begun + "; exec sleep 1000"}, nil)
	what, cure := fault.Describe(err)
	if !strings.Contains(what, path) || !strings.Contains(cure, "start the node again") || !fault.Is(err, fault.Canceled) {
		t.Errorf("%v: %q, %q", err, what, cure)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"}) // one that hangs
	must(t, err)
	defer l.Close()
	late, stop := context.WithCancel(t.Context())
	go func() {
		c, err := l.Accept()
		stop()
		if err == nil {
			defer c.Close()
		}
		<-t.Context().Done()
	}()
	err = Ensure(late, path, []string{"/bin/false"}, nil)
	if what, cure := fault.Describe(err); !strings.Contains(what, path+" does not answer") || cure == "" {
		t.Errorf("%v: %q, %q", err, what, cure)
	}
}

func TestSecondKeeperGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keeper.sock")
	keeperProcess(t, path)
	if code := Main([]string{"--socket", path}); code != fault.Busy.ExitCode() {
		t.Errorf("a second keeper ended with %d", code)
	}
	if code := Main([]string{"--nonsense"}); code != fault.Invalid.ExitCode() {
		t.Errorf("a keeper with wrong flags ended with %d", code)
	}
}

// FuzzPackets sends packets after a hello: whatever they are, the next client is served.
func FuzzPackets(f *testing.F) {
	for _, r := range []request{
		{Verb: "put", Entry: &Entry{Name: "vol", Meta: "m", Wait: 1}}, {Verb: "get", Name: "vol"}, {Verb: "release", Name: "vol"},
		{Verb: "remove", Name: "vol"}, {Verb: "list"}, {Verb: "hello", MaxVersion: 1, Role: roleData}, {Verb: "put"},
	} {
		raw, err := json.Marshal(r)
		must(f, err)
		f.Add(raw)
	}
	path := filepath.Join(f.TempDir(), "keeper.sock")
	l, lock, err := listen(path)
	must(f, err)
	k := newKeeper(func(string, ...any) {})
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go k.serve(c)
		}
	}()
	f.Cleanup(func() { l.Close(); lock.Close() })
	f.Fuzz(func(t *testing.T, text []byte) {
		raw := rawConn(t, path)
		must(t, packet.Send(raw, request{Verb: "hello", MaxVersion: maxVersion, Role: roleData}, nil))
		var a answer
		_, err := packet.Receive(raw, &a)
		must(t, err)
		if _, err := raw.Write(text); err != nil {
			return // too long for a packet
		}
		files, err := packet.Receive(raw, &a)
		if err == nil {
			packet.CloseAll(files)
		}
		raw.Close()
	})
}
