package attachtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

const childEnv = "HOLDFAST_ATTACHTEST_CHILD"

// Main is called by TestMain: it runs the tests, or, where the suite has started the
// test binary again, serves a device.
func Main(m *testing.M, s Suite) {
	if config := os.Getenv(childEnv); config != "" {
		if err := serve(s, config); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childConfig is what a child process is told.
type childConfig struct {
	Dir       string // of the front end, and of the file
	Name      string
	Size      int64
	Wait      time.Duration
	CloseGate bool // hold requests back
	HoldFence bool // until told "fence"
}

// child is a process that serves a device from the file of its name.
type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    *os.File
	lines chan string
	dead  sync.Once
}

// startChild starts a process; await "ready" to know that it serves.
func startChild(t testing.TB, config childConfig) *child {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close() // the child has it
	c := &child{t: t, cmd: cmd, in: theirs, lines: make(chan string, 64)}
	go func() {
		defer close(c.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
	}()
	t.Cleanup(c.kill)
	return c
}

// tell sends the process a command.
func (c *child) tell(command string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		c.t.Fatalf("tell the child process to %s: %v", command, err)
	}
}

// await reads what the process says until it says want.
func (c *child) await(want string) {
	c.t.Helper()
	for {
		switch line, alive := patiently.Next(c.t, c.lines); {
		case !alive:
			c.t.Fatalf("the child process ended before it said %q", want)
		case line == want:
			return
		case strings.HasPrefix(line, "failed"):
			c.t.Fatalf("the child process %s, before it said %q", line, want)
		}
	}
}

// ask sends the process a command and returns its answer.
func (c *child) ask(command string) string {
	c.t.Helper()
	c.tell(command)
	line, ok := patiently.Next(c.t, c.lines)
	if !ok {
		c.t.Fatalf("the child process ended instead of an answer to %q", command)
	}
	return line
}

// hold waits until the process holds at least n requests back.
func (c *child) hold(n int) {
	c.t.Helper()
	c.tell(fmt.Sprintf("hold %d", n))
	c.await("held")
}

// kill kills the process with SIGKILL and waits until it is gone.
func (c *child) kill() {
	c.dead.Do(func() {
		_ = c.cmd.Process.Kill()
		for range c.lines { // Wait closes the pipe
		}
		_ = c.cmd.Wait() // killed, which is an error
		_ = c.in.Close()
	})
}

// end waits for the process to end by itself.
func (c *child) end() {
	c.t.Helper()
	c.dead.Do(func() {
		for alive := true; alive; {
			_, alive = patiently.Next(c.t, c.lines)
		}
		if err := c.cmd.Wait(); err != nil {
			c.t.Errorf("the child process: %v", err)
		}
		_ = c.in.Close()
	})
}

// served is the child's side.
type served struct {
	config childConfig
	loop   *host.Loop
	file   *File
	gate   *Gate
	fence  chan struct{}
	front  attach.Frontend
}

// serve is what the child process does.
func serve(s Suite, raw string) error {
	c := &served{fence: make(chan struct{})}
	if err := json.Unmarshal([]byte(raw), &c.config); err != nil {
		return err
	}
	var err error
	if c.loop, err = host.NewLoop(host.Options{}); err != nil {
		return err
	}
	disk, err := c.loop.Open(c.config.Dir)
	if err != nil {
		return err
	}
	ran := make(chan struct{})
	go func() { defer close(ran); c.loop.Run(context.Background()) }()

	o := commonOptions(c.config.Dir, c.config.Name)
	o.Loop, o.Size, o.Wait, o.Fence = c.loop, c.config.Size, c.config.Wait, c.fenced
	c.file = NewFile(disk, o.Depth)
	c.gate = NewGate(&lateFile{c: c}, c.loop)
	if c.config.CloseGate {
		c.gate.Close()
	}
	o.Backend = c.gate
	front, free, err := s.New(c.config.Dir, o)
	if err != nil {
		return err
	}
	c.front = front
	commands := c.commands()
	if err := front.Start(context.Background()); err != nil {
		return err
	}
	fmt.Println("ready")
	err = c.obey(commands)
	free()
	c.loop.Stop()
	<-ran
	return err
}

// fenced is the fence: the file's lock, which outlives what a dead process began.
func (c *served) fenced(done func(error)) {
	fmt.Println("fence")
	if c.config.HoldFence {
		go func() {
			<-c.fence
			c.loop.Post(func() { c.open(done) })
		}()
		return
	}
	c.open(done)
}

// open opens the file as soon as nobody else has it, unless it is open.
func (c *served) open(done func(error)) {
	if c.file.file != 0 {
		done(nil)
		return
	}
	var retry *host.Timer
	try := func() {
		c.file.Open(c.config.Name, c.config.Size, func(err error) {
			if fault.Is(err, fault.Busy) {
				retry.Set(c.loop.Now() + time.Millisecond)
				return
			}
			done(err)
		})
	}
	retry = c.loop.NewTimer(try)
	try()
}

// commands returns what the process is told on its standard input.
func (c *served) commands() <-chan string {
	commands := make(chan string)
	go func() {
		defer close(commands)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			if scanner.Text() == "fence" {
				close(c.fence)
				continue
			}
			commands <- scanner.Text()
		}
	}()
	return commands
}

// lateFile opens the file before the first request: a new device calls no fence.
type lateFile struct {
	c     *served
	queue []*attach.Request
}

// Submit passes r on to the file.
func (l *lateFile) Submit(r *attach.Request) {
	if l.c.file.file != 0 {
		l.c.file.Submit(r)
		return
	}
	l.queue = append(l.queue, r)
	if len(l.queue) > 1 {
		return
	}
	l.c.open(func(err error) {
		for _, r := range l.queue {
			if err != nil {
				r.End(err)
			} else {
				l.c.file.Submit(r)
			}
		}
		l.queue = nil
	})
}

// obey does what it is told until that ends the device, or this process.
func (c *served) obey(commands <-chan string) error {
	for command := range commands {
		var err error
		var n int
		if _, scanErr := fmt.Sscanf(command, "hold %d", &n); scanErr == nil {
			err = c.gate.Await(n)
			command = "held"
		}
		switch command {
		case "handover":
			err = c.front.HandOver(context.Background())
		case "stop":
			err = c.front.Stop(context.Background())
		case "close":
			c.gate.Close()
		case "again":
			command = fmt.Sprintf("again %d", c.front.Stats().Again)
		}
		if err != nil {
			return err
		}
		fmt.Println(command)
		if command == "handover" || command == "stop" {
			<-c.front.Ended()
			return c.front.Err()
		}
	}
	return fault.Errorf("attachtest", fault.Canceled, "the test is gone")
}
