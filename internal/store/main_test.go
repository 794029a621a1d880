package store

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	// The heap is small and most of it garbage: collecting it seldom halves the time.
	debug.SetGCPercent(1000)
	os.Exit(m.Run())
}
