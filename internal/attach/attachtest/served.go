package attachtest

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

// VolumeSize is the size of what a [Child] serves, in bytes.
const VolumeSize = volumeSize

// Volume is the volume of all devices of the suite.
var Volume = block.VolumeID{0xa7}

// Child is a process that serves a device.
type Child struct{ c *child }

// StartChild starts a process that serves a device of the name, from a file in dir, and
// waits until it does.
func StartChild(t testing.TB, dir, name string) *Child {
	t.Helper()
	c := startChild(t, childConfig{Dir: dir, Name: name, Size: volumeSize, Wait: patience})
	c.await("ready")
	return &Child{c}
}

// Kill kills the process, and waits until it is gone.
func (c *Child) Kill() { c.c.kill() }

// Stop has the process take the device away, and waits until it has ended.
func (c *Child) Stop() {
	c.c.t.Helper()
	c.c.tell("stop")
	c.c.await("stop")
	c.c.end()
}
