package store

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if err := workUntilKilled(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The heap is small and most of it garbage: collecting it seldom halves the time.
	// With thousands of seeds at once it is not small.
	debug.SetGCPercent(1000)
	debug.SetMemoryLimit(1 << 30)
	os.Exit(m.Run())
}
