package simdisk

import (
	"path"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Effect is what a fault does to an operation.
type Effect uint8

// The effects.
const (
	// Fail makes the operation fail. A write may have landed in part. A sync of a file
	// drops what it should have made durable: no later sync brings it back, though it
	// succeeds, and reads tell either at once or after the next crash. SyncAll drops
	// so for every file. SyncDir leaves its directory in doubt, until one succeeds.
	Fail Effect = iota + 1
	// Stall makes the operation complete late; see Rule.Delay.
	Stall
	// Misdirect makes a write land at another multiple of 4 KiB within the file, and
	// succeed. In a file without another place it is lost.
	Misdirect
	// Lose makes a write succeed without its bytes landing. Size and allocation are
	// what they would be, since the filesystem believes in it too.
	Lose
)

// Rule is a fault that strikes operations which it names. Its zero Kind, Path, Skip
// and Times mean: any operation, the first one, once.
type Rule struct {
	Kind   host.Kind     // 0 is any; Misdirect and Lose strike only writes
	Path   string        // as path.Match; for a handle, the path that it was opened by; "" is any
	Skip   int           // how many operations that match pass first
	Times  int           // how many it then strikes; 0 is one, negative is all
	Effect Effect        // what it does
	Error  fault.Kind    // for Fail: the kind of error; 0 is Media
	Delay  time.Duration // for Stall: how late the operation is; 0 is until Release
}

// Odds are the chances, from 0 to 1, that an operation is struck without a Rule.
type Odds struct {
	ReadError  float64       // a read fails with Media
	WriteError float64       // a write fails with Media
	SyncError  float64       // a sync of any kind fails with Media
	Misdirect  float64       // a write is misdirected
	Lose       float64       // a write is lost
	Rot        float64       // a read finds a bit flipped, for good
	Stall      float64       // any operation is stalled
	StallMax   time.Duration // for up to this long
}

// faults is what is wrong with a disk.
type faults struct {
	rules []Rule
	odds  Odds
}

// Inject adds a rule. Of several that match an operation the first one strikes; those
// after it do not count the operation. Crash and Kill keep the rules.
func (d *Disk) Inject(r Rule) { d.faults.rules = append(d.faults.rules, r) }

// SetOdds replaces the odds.
func (d *Disk) SetOdds(o Odds) { d.faults.odds = o }

// Heal takes rules and odds away and ends stalls. What was lost stays lost.
func (d *Disk) Heal() {
	d.faults = faults{}
	d.Release()
}

// matches reports whether the rule is about op.
func (r *Rule) matches(op *host.Op, name string) bool {
	if r.Kind != 0 && r.Kind != op.Kind || op.Kind != host.OpWrite && (r.Effect == Misdirect || r.Effect == Lose) {
		return false
	}
	if r.Path == "" {
		return true
	}
	ok, err := path.Match(r.Path, name)
	if err != nil {
		panic(fault.Bug("simdisk: pattern %q: %v", r.Path, err))
	}
	return ok
}

// hit finds the first rule, among those that stall or those that do not, which
// strikes op, and counts op.
func (f *faults) hit(op *host.Op, name string, stalls bool) (struck Rule, ok bool) {
	for i := range f.rules {
		r := &f.rules[i]
		if (r.Effect == Stall) != stalls || !r.matches(op, name) {
			continue
		}
		if r.Skip > 0 {
			r.Skip--
			continue
		}
		struck = *r
		if r.Times >= 0 {
			if r.Times--; r.Times <= 0 {
				f.rules = slices.Delete(f.rules, i, i+1)
			}
		}
		return struck, true
	}
	return Rule{}, false
}

// stall decides, when op is submitted, how late it will be; negative is until Release.
func (d *Disk) stall(op *host.Op) time.Duration {
	if len(d.faults.rules) > 0 {
		if r, ok := d.faults.hit(op, d.pathOf(op), true); ok {
			if r.Delay == 0 {
				return -1
			}
			return r.Delay
		}
	}
	if o := d.faults.odds; d.chance(o.Stall) && o.StallMax > 0 {
		return 1 + time.Duration(d.rand.Int64N(int64(o.StallMax)))
	}
	return 0
}

// strike is what goes wrong with one operation.
type strike struct {
	effect Effect
	kind   fault.Kind // of the error, for Fail
}

// strike decides, when op is performed, what goes wrong with it.
func (d *Disk) strike(op *host.Op, name string) strike {
	if len(d.faults.rules) > 0 {
		if r, ok := d.faults.hit(op, name, false); ok {
			if r.Error == fault.Unknown {
				r.Error = fault.Media
			}
			return strike{r.Effect, r.Error}
		}
	}
	o := &d.faults.odds
	switch op.Kind {
	case host.OpRead:
		if d.chance(o.ReadError) {
			return strike{Fail, fault.Media}
		}
		if d.chance(o.Rot) {
			d.rotRead(op)
		}
	case host.OpWrite:
		switch {
		case d.chance(o.WriteError):
			return strike{Fail, fault.Media}
		case d.chance(o.Misdirect):
			return strike{effect: Misdirect}
		case d.chance(o.Lose):
			return strike{effect: Lose}
		}
	case host.OpSync, host.OpSyncDir, host.OpSyncAll:
		if d.chance(o.SyncError) {
			return strike{Fail, fault.Media}
		}
	}
	return strike{}
}

// chance is true with probability p. It draws nothing when p is 0.
func (d *Disk) chance(p float64) bool { return p > 0 && d.rand.Float64() < p }

// coin is true half of the time.
func (d *Disk) coin() bool { return d.rand.Uint64()&1 == 0 }
