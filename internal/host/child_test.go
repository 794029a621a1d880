package host_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// children are what the test binary does instead of testing when a test starts it
// again, by name.
var children = map[string]func(root, engine string) error{
	"freeze":    freezeAndWrite,
	"forbidden": workWithoutRing,
}

const childEnv = "HOLDFAST_HOST_TEST_CHILD"

func TestMain(m *testing.M) {
	name, args, _ := strings.Cut(os.Getenv(childEnv), " ")
	if name == "" {
		os.Exit(m.Run())
	}
	engine, root, _ := strings.Cut(args, " ")
	if err := children[name](root, engine); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startChild starts the named child, which is killed when the test ends, and returns
// it with its standard output.
func startChild(t *testing.T, name, engine, root string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+name+" "+engine+" "+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, bufio.NewReader(out)
}

// engineNamed is the inverse of Engine.String.
func engineNamed(name string) int {
	for i, v := range variants {
		if v.name == name {
			return i
		}
	}
	panic("no engine " + name)
}
