package node

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// TestResyncsArePausedAndGoOn has a replica return while resyncs are paused.
func TestResyncsArePausedAndGoOn(t *testing.T) {
	g := newRig(t, 2)
	head, other := g.nodes[0], g.nodes[1]
	v := head.attach()
	pause := func(yes bool) {
		head.do(func() {
			head.resyncs.Pause = yes
			head.paceResyncs()
		})
	}
	pause(true)
	other.kill()
	v.write(0, 1, 4096)
	other.start()
	patiently.True(t, "the volume says that resyncs are paused, and how they go on", func() (yes bool) {
		head.do(func() {
			yes = slices.ContainsFunc(v.h.coord.Health(head.loop.Now()), func(c coordinator.Condition) bool { return c.Cure == "holdfast cluster set pause_resync=false" })
		})
		return yes
	})
	v.write(4096, 2, 4096)
	if n := g.record.now().InSync(); n != 1 {
		t.Errorf("%d replicas count", n)
	}
	pause(false)
	g.await(func(r spec.Record) bool { return r.InSync() == 2 })
}

// TestResyncsKeepToTheSettings changes the cluster's settings under a head that runs, and
// before one begins.
func TestResyncsKeepToTheSettings(t *testing.T) {
	m := newMachine(t)
	says := func(id, what string) {
		t.Helper()
		patiently.True(t, "the head says: "+what, func() bool { return strings.Contains(m.page("/debug/volumes/"+id), what) })
	}
	first := m.create("first", 64<<20)
	m.tend(first, m.o.Node.String())
	says(first, "at most 0 bytes a second (0: no bound), paused false")
	m.commit(state.Settings.Create(state.SettingsID, &v1.ClusterSettings{ResyncBytesPerSecond: 1 << 20, PauseResync: true}))
	says(first, "at most 1048576 bytes a second (0: no bound), paused true")
	second := m.create("second", 64<<20)
	m.tend(second, m.o.Node.String())
	says(second, "at most 1048576 bytes a second (0: no bound), paused true")
	m.commit(state.Settings.Put(state.SettingsID, &v1.ClusterSettings{}))
	says(first, "at most 0 bytes a second (0: no bound), paused false")
}
