//go:build kube

package kube

import (
	"os"
	"os/exec"
	"testing"
)

// TestSuite is Kubernetes' own suite for storage drivers. It takes long, and is run when it
// is asked for: E2E=1, as test/kube/e2e does.
func TestSuite(t *testing.T) {
	if os.Getenv("E2E") == "" || os.Getuid() != 0 {
		t.Skip("not asked for, or no root")
	}
	k := start(t)
	cmd := exec.Command("./e2e", k.name)
	cmd.Env = append(os.Environ(), "KUBE_DIR="+k.dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	k.leavesNothing(nil)
}
