package control

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// leader makes decisions and commits them, for as long as it leads. It is one goroutine.
type leader struct {
	store  state.Store
	still  state.Op // the condition that it still leads
	log    *slog.Logger
	now    func() time.Time
	random io.Reader
	node   string // who says so, in events
	traces tracer

	*view
	again   timers               // volumes to be looked at again at a time
	said    map[string]time.Time // when the verdict on a volume was written
	waiting map[string]bool      // volumes that wait for room, or for their turn
	behind  bool                 // somebody was faster: look again when more is known
	wake    time.Time            // when the next look at something else than volumes is due
}

// load reads everything anew.
func (l *leader) load(ctx context.Context) error {
	v, err := read(ctx, l.store)
	if err != nil {
		return err
	}
	l.view, l.again, l.waiting, l.behind, l.wake = v, timers{at: map[string]time.Time{}}, map[string]bool{}, false, time.Time{}
	l.said = map[string]time.Time{}
	return nil
}

// turn decides and commits until there is nothing to do for the moment, and returns when
// the next look is due at the latest. An error is the store's: what is known may be wrong.
func (l *leader) turn(ctx context.Context) (next time.Time, err error) {
	l.behind = false
	l.traces.begin()
	defer l.traces.end()
	for {
		d := l.decider()
		if err := l.sweep(ctx, d); err != nil {
			return next, err
		}
		d.wishes() // operations may be others now
		if err := l.turnVolumes(ctx, d); err != nil {
			return next, err
		}
		if l.behind || len(l.touched) == 0 && len(l.fresh) == 0 {
			return l.nextLook(d.now), nil
		}
	}
}

func (l *leader) decider() *decider {
	d := &decider{view: l.view, now: l.now(), ids: l.id}
	d.wishes()
	return d
}

// id makes an id of a replica or a snapshot.
func (l *leader) id() string {
	id, err := block.NewReplicaID(l.random)
	if err != nil {
		panic(fault.Bug("control: no randomness: %v", err))
	}
	return id.String()
}

// nextLook returns when something is due.
func (l *leader) nextLook(now time.Time) time.Time {
	next := l.wake
	if t, ok := l.again.first(); ok && (next.IsZero() || t.Before(next)) {
		next = t
	}
	if l.behind {
		next = now.Add(time.Second)
	}
	return next
}

// sweep looks at all but volumes, as far as something changed or is due.
func (l *leader) sweep(ctx context.Context, d *decider) error {
	due := !l.wake.IsZero() && !d.now.Before(l.wake)
	fresh := l.fresh
	l.fresh = map[string]bool{}
	if l.wake.IsZero() || due {
		l.wake = d.now.Add(expireEvery)
		due = true
	}
	changed := func(words ...string) bool {
		return due || slices.ContainsFunc(words, func(w string) bool { return fresh[w] })
	}
	for _, look := range []struct {
		name  string
		steps func() []step
		when  bool
	}{
		{"liveness", func() []step { return d.liveness(due) }, changed("nodes", "alive", "nodestatus", "pools", "poolstatus", "absences")},
		{"operations", d.operate, changed("operations", "assignments", "records", "verdicts", "holdings", "nodes", "pools")},
		{"schedules", d.oldMarks, changed("policies")},
		{"schedules", d.together, changed("policies", "schedules")},
		{"births", d.oldBirths, changed("births", "holdings", "records", "assignments", "volumes")},
		{"strays", func() []step { return d.strayReplicas(due) }, changed("holdings", "condemned", "strays", "assignments", "records")},
		{"expiry", d.expire, due},
	} {
		if !look.when {
			continue
		}
		for _, s := range look.steps() {
			if !s.again.IsZero() && s.again.After(d.now) && s.again.Before(l.wake) {
				l.wake = s.again
			}
			if err := l.commit(ctx, look.name, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// operate decides about the operations that are under way.
func (d *decider) operate() (steps []step) {
	for id := range d.active {
		steps = append(steps, d.operation(id))
	}
	slices.SortFunc(steps, func(a, b step) int { return strings.Compare(firstKey(a), firstKey(b)) })
	return steps
}

func firstKey(s step) string {
	if len(s.ops) == 0 {
		return ""
	}
	return s.ops[0].Key
}

// turnVolumes decides about the volumes that changed or are due, those with the fewest
// good copies first.
func (l *leader) turnVolumes(ctx context.Context, d *decider) error {
	for l.again.due(d.now) {
		l.touched[l.again.pop()] = true
	}
	if l.stirred {
		l.stirred = false
		for id := range l.waiting {
			l.touched[id] = true
		}
	}
	type candidate struct {
		id      string
		urgency int
	}
	list := make([]candidate, 0, len(l.touched))
	for id := range l.touched {
		list = append(list, candidate{id, l.urgency(id)})
	}
	clear(l.touched)
	slices.SortFunc(list, func(a, b candidate) int {
		if a.urgency != b.urgency {
			return a.urgency - b.urgency
		}
		return strings.Compare(a.id, b.id)
	})
	for i, c := range list {
		if err := l.volumeTurn(ctx, d, c.id); err != nil {
			for _, c := range list[i:] {
				l.touched[c.id] = true
			}
			return err
		}
	}
	return nil
}

// volumeTurn takes one step for a volume. The commit touches the volume again, so the next
// step comes by itself.
func (l *leader) volumeTurn(ctx context.Context, d *decider, id string) error {
	s := d.volume(id)
	delete(l.waiting, id)
	l.again.set(id, s.again)
	if s.waiting {
		l.waiting[id] = true
	}
	gone := slices.ContainsFunc(s.ops, func(op state.Op) bool { return op.Key == state.Volumes.Key(id) && op.Does == state.DoesDelete })
	if !gone {
		l.verdict(d, id, &s)
	}
	return l.commit(ctx, "volume", s)
}

// verdict adds to a step what there is to say about the volume, when that is news.
func (l *leader) verdict(d *decider, id string, s *step) {
	was, known := l.verdicts.get(id)
	if l.volumes.value(id) == nil {
		s.say = nil
	}
	if len(s.say) == 0 {
		if known {
			s.ops = append(s.ops, state.Verdicts.Delete(id, was.Revision))
		}
		delete(l.said, id)
		return
	}
	for _, c := range s.say {
		c.Since = timestamppb.New(d.now)
		for _, old := range was.Value.GetConditions() {
			if old.Type == c.Type && old.Status == c.Status && old.Reason == c.Reason {
				c.Since = old.Since
			}
		}
	}
	now := &statepb.Verdict{VolumeId: id, Conditions: s.say}
	if proto.Equal(was.Value, now) {
		return
	}
	if said := l.said[id]; alike(was.Value, now) && d.now.Before(said.Add(sayEvery)) {
		l.again.soon(id, said.Add(sayEvery))
		return
	}
	l.said[id] = d.now
	s.ops = append(s.ops, state.Verdicts.Put(id, now))
	if s.event == nil {
		s.event = news(d, id, was.Value, s.say)
	}
}

// sayEvery is how often a verdict is written when only its words have changed, such as
// how much space is left.
const sayEvery = 30 * time.Second

// alike reports whether two verdicts have the same reasons.
func alike(a, b *statepb.Verdict) bool {
	return slices.EqualFunc(a.GetConditions(), b.GetConditions(), func(x, y *v1.Condition) bool {
		return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason
	})
}

// expected are reasons that are no news by themselves: something else was, or will be.
var expected = []string{"Away", "Waits", "Maintenance", "Paused", "RebuildsOff", "TooManyDown", "Deleting", "SourceNotReady"}

// news makes an event of the first condition that was not so before.
func news(d *decider, id string, was *statepb.Verdict, say []*v1.Condition) *v1.Event {
	for _, c := range say {
		if !slices.Contains(expected, c.Reason) && !slices.ContainsFunc(was.GetConditions(), func(old *v1.Condition) bool { return old.Type == c.Type && old.Reason == c.Reason }) {
			return d.about(d.volumes.value(id), "warning", c.Reason, "%s", c.Message)
		}
	}
	return nil
}

// commit does a step, if there is something to do, as the leader. That somebody was faster
// is no error: what it was will be seen. The reconciler is named for traces.
func (l *leader) commit(ctx context.Context, reconciler string, s step) (err error) {
	if len(s.ops) == 0 {
		return nil
	}
	ctx, traced := l.traces.commit(ctx, reconciler, s)
	defer func() { traced(err) }()
	ops := s.ops
	if s.event != nil {
		ops = append(ops, l.eventOp(s.event))
	}
	at, err := l.store.Commit(ctx, append(slices.Clone(ops), l.still)...)
	switch {
	case fault.Is(err, fault.Busy):
		l.behind = true
		traced(err)
		return l.lookAgain(ops)
	case err != nil:
		return err
	}
	if s.event != nil {
		l.log.Info(s.event.Message, "object", s.event.Object, "name", s.event.ObjectName, "reason", s.event.Reason)
	}
	return l.view.commit(ops, at)
}

// lookAgain has what the ops are about looked at again.
func (l *leader) lookAgain(ops []state.Op) error {
	for _, op := range ops {
		l.fresh[first(op.Key)] = true
		if id := op.Key[strings.LastIndexByte(op.Key, '/')+1:]; l.volumes.value(id) != nil {
			l.touched[id] = true
		}
	}
	return nil
}

// eventOp writes an event, whose id begins with its time, so that they are in order.
func (l *leader) eventOp(e *v1.Event) state.Op {
	now := l.now()
	e.Id, e.Time = state.EventID(now, rand.Text()), timestamppb.New(now)
	if e.NodeId == "" {
		e.NodeId = l.node
	}
	return state.Events.Create(e.Id, e)
}
