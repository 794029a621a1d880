package sim

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

var long = os.Getenv("HOLDFAST_LONG") != ""

// interruption is a resync, and who dies at which of its steps: a step is a message that
// arrives, whichever way, between when the replica that lacks writes comes back and when it
// counts.
type interruption struct {
	owner  string // where the volume is attached: "apart" from the replicas, at the "source" or the "target"
	victim string // "source", "target" or "owner"
	power  bool   // its machine loses power
	step   int    // 0: nobody dies
}

func (x interruption) String() string {
	how := "killed"
	if x.power {
		how = "without-power"
	}
	return fmt.Sprintf("owner-%s/%s-%s/%d", x.owner, x.victim, how, x.step)
}

// What a resync brings is a snapshot that was missed, and writes and discards of before and
// after it; while it goes on there are more of them, another snapshot is taken, the volume
// grows, and a snapshot is deleted. Whoever dies at whichever step of that: all replicas
// count again, are equal, and nothing is lost.
func TestAResyncSurvivesACrashAtEveryStep(t *testing.T) {
	stride := 61
	if long {
		stride = 1
	}
	runs := 0
	for _, x := range []interruption{
		{owner: "apart", victim: "source"}, {owner: "apart", victim: "target"}, {owner: "apart", victim: "owner"},
		{owner: "source", victim: "source"}, {owner: "source", victim: "target"},
		{owner: "target", victim: "source"}, {owner: "target", victim: "target"},
	} {
		steps, err := x.run(nil)
		if err != nil {
			t.Fatalf("%v: %v", x, err)
		}
		if steps < 2*stride && !long || steps < 100 {
			t.Fatalf("%v: the resync has %d steps only", x, steps)
		}
		for _, x.power = range []bool{false, true} {
			for x.step = 1 + runs%stride; x.step <= steps; x.step += stride {
				runs++
				t.Run(x.String(), func(t *testing.T) {
					var trace []string
					if _, err := x.run(func(line string) { trace = append(trace, line) }); err != nil {
						t.Errorf("%v\nthe run ends with:\n%s", err, strings.Join(trace[max(0, len(trace)-200):], "\n"))
					}
				})
			}
		}
		x.step, x.power = 0, false
	}
	t.Logf("%d crashes", runs)
}

// run plays the resync, and returns how many steps it had.
func (x interruption) run(trace func(string)) (steps int, err error) {
	c := newWorld(1, trace).cluster()
	defer c.end()
	c.netMax, c.diskMax = 200*time.Microsecond, 100*time.Microsecond
	c.patience, c.cleanEvery, c.depth = c.lease/2, c.lease/10, 3
	s := shape{count: 2, blocks: 2*block.PerRegion + 40}
	if x.owner == "apart" {
		s.count, s.spare = 3, 1
	}
	c.build(s)
	source, target := c.nodes[0], c.nodes[s.count-1]
	owner := map[string]*node{"apart": c.nodes[len(c.nodes)-1], "source": source, "target": target}[x.owner]
	c.attach(owner)
	c.tend()
	c.play(80)
	c.take()
	c.play(40)

	target.kill(false)
	c.until("it is left behind", func() bool { return c.record.InSync() == s.count-1 })
	c.play(80)
	c.take()
	c.play(40)

	c.onStep = func(at step) {
		if c.record.InSync() == s.count || !target.up {
			return
		}
		switch at.msg.(type) {
		case *wire.Verify, *wire.Regions, *wire.Changed:
			if at.node != target {
				source = at.node
			}
		}
		steps++
		if h := c.owner(); h != nil {
			switch steps {
			case 20:
				h.snapshot(0)
			case 60:
				h.grow()
			case 90:
				h.deleteSnapshot()
			}
		}
		if steps == x.step {
			victim := map[string]*node{"source": source, "target": target, "owner": at.head.node}[x.victim]
			victim.kill(x.power)
			c.after(c.lease/3, victim.start)
		}
	}
	target.start()
	if x.owner == "target" {
		for _, h := range c.heads {
			h.end()
		}
		c.attach(target)
	}
	c.requests += 60
	c.until("it counts", func() bool { return c.record.InSync() == s.count })
	if c.err == nil && x.step > steps {
		c.found("nobody died: there were %d steps", steps)
	}
	if c.err == nil {
		c.converge()
	}
	return steps, c.err
}

// tend sees to it that somebody has the volume attached.
func (c *cluster) tend() {
	if !c.healed {
		c.attachSomewhere()
		c.after(c.lease/4, c.tend)
	}
}

// until lets time pass until something is so.
func (c *cluster) until(what string, is func() bool) {
	c.run(c.now+time.Minute, is)
	if c.err == nil && !is() {
		c.found("%s: not within a minute: %s", what, states(c.record))
	}
}

// play has the client make requests, and waits for them.
func (c *cluster) play(requests int) {
	c.requests += requests
	c.until("requests end", func() bool { return c.submitted >= c.requests && len(c.checks) == 0 })
}

// take takes a snapshot.
func (c *cluster) take() {
	have := len(c.record.Snapshots)
	c.until("a snapshot is taken", func() bool {
		if h := c.owner(); h != nil && len(h.orders) == 0 && len(c.record.Snapshots) == have {
			h.snapshot(0)
		}
		return len(c.record.Snapshots) > have && len(c.model.taking) == 0
	})
}
