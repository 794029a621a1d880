package node

import (
	"fmt"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// What time causes, such as the renewal of leases, allocates, but not each I/O: less than
// one allocation an I/O is counted as none.
func TestIODoesNotAllocate(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		for _, op := range []attach.Op{attach.Write, attach.Read} {
			t.Run(fmt.Sprint(op, " with ", nodes), func(t *testing.T) {
				v := newRig(t, nodes).nodes[0].attach()
				done := make(chan struct{}, 1)
				r := &attach.Request{Op: op, Length: block.Size, Buf: host.Buffer(block.Size)}
				r.Done = func(*attach.Request) { done <- struct{}{} }
				submit := func() { v.b.Submit(r) }
				if got := testing.AllocsPerRun(1000, func() { v.n.loop.Post(submit); <-done }); got > 0 {
					t.Errorf("%v allocations", got)
				}
				if r.Err != nil {
					t.Error(r.Err)
				}
			})
		}
	}
}
