package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/frontend"
	"github.com/holdfast-io/holdfast/internal/attach/fuse"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state"
)

// attachment brings one volume's head and device here to what is wished for. Its
// goroutine owns it, but for the fields below mu.
type attachment struct {
	d    *daemon
	id   string
	log  *slog.Logger
	head *head           // the loop's, behind the pointer; nil while there is none
	lost chan error      // of the head: it has stopped
	back *backend        // the loop's
	show attach.Frontend // nil while there is none
	said *v1.AttachmentStatus

	kind       frontend.Kind    // of show
	keptBy     *keeper.Client   // whose keeper has show
	export     *exported        // where clients find show, if that is an export
	name       string           // of the volume, as show has it
	snapshot   bool             // show is of a snapshot
	left       *frontend.Device // of a device that the data process before this one left
	limited    *v1.Limits       // what the head keeps to
	shown      int64            // bytes that show has, and the filesystem that is mounted here
	fixed      string           // why show can't grow while it is there; "" while nothing is known of that
	complained string           // the last error that was logged
	mounted    string           // where the device is mounted by this node; "" nowhere
	dead       string           // name of a device that serves nobody any more, and may be mounted still
	unsaid     bool             // there is more to say than could be said
	unchanged  string           // why the volume is not what is wished for
	answered   state.Revision   // of the wish that was carried out last, or failed

	thawed      bool                          // it was looked whether the process before this one left it frozen
	groups      map[string]*coordinator.Group // snapshots of groups that wait for the others
	repaired    uint64                        // blocks of this head that an event has told of
	repairsTold time.Time                     // when

	mu     sync.Mutex
	wanted wish
	front  attach.Frontend // show, for those who look
	since  time.Time       // when this process began to serve front
	leaves bool
	runs   bool          // of attachments
	news   chan struct{} // has a value when wanted or leaves changed
}

func newAttachment(d *daemon, id string) *attachment {
	return &attachment{d: d, id: id, log: d.o.Log.With("volume", id), news: make(chan struct{}, 1), groups: map[string]*coordinator.Group{}}
}

// Depths of a device: how many requests, and how many that are longer than
// attach.SmallBytesMax, are with the data process at once. They take 8.3 MiB a volume,
// unless their data lies in what all devices of the node share.
const (
	deviceDepth      = 64
	deviceLargeDepth = 4
)

// What devices of the kind fuse share: see fuse.Pool. It takes 20 MiB, and each device
// 288 KiB.
const (
	sharedSmall = 192
	sharedBig   = 32
)

func newShared() (*fuse.Pool, error) {
	if !fuse.Resends() {
		return nil, nil
	}
	return fuse.NewPool(sharedSmall, sharedBig)
}

// retryAttach is how long an attachment waits before it tries again what failed.
const retryAttach = time.Second

func (a *attachment) wishFor(w wish) {
	a.mu.Lock()
	a.wanted = w
	a.mu.Unlock()
	a.wake()
}

func (a *attachment) leave() {
	a.mu.Lock()
	a.leaves = true
	a.mu.Unlock()
	a.wake()
}

func (a *attachment) wake() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

func (a *attachment) wished() wish {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted
}

func (a *attachment) leaving() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaves
}

// remember learns what the data process before this one said, and so left.
func (a *attachment) remember() {
	for {
		e, err := state.AttachStatuses.Get(a.d.ctx, a.d.o.Store, a.id)
		switch {
		case err == nil && e.Value.NodeId == a.d.o.Node.String():
			a.said = e.Value
			if e.Value.MountPath != "" { // or it is mounted by somebody else, if at all
				if at, found, err := mount.At(e.Value.MountPath); err == nil && found {
					a.mounted = at.Dir
				}
			}
			return
		case err == nil, fault.Is(err, fault.NotFound), a.d.ctx.Err() != nil:
			return
		}
		select {
		case <-time.After(retryAttach):
		case <-a.d.ctx.Done():
		}
	}
}

// run works until nothing is wished for and nothing is left, or this process leaves.
func (a *attachment) run() {
	a.remember()
	for {
		w := a.wished()
		err := a.carryOut(w)
		if a.leaving() {
			a.handOver()
			a.d.show.gone(a)
			return
		}
		if err == nil && w.nothing() && a.d.show.gone(a) {
			return
		}
		a.complain(err)
		a.say(err)
		var again <-chan time.Time
		if err != nil {
			again = time.After(retryAttach)
		}
		look := time.NewTimer(a.lookAfter(err))
		select {
		case <-a.news:
		case <-again:
		case <-look.C:
		case why := <-a.lost:
			a.lose(why)
		case <-a.ended():
			a.deviceGone()
		}
		look.Stop()
	}
}

// carryOut does what is missing for a wish, and notes that it was looked at.
func (a *attachment) carryOut(w wish) error {
	select {
	case <-a.ended(): // it may have, though the news that were taken are others
		a.deviceGone()
	default:
	}
	err := a.keep()
	if brought := a.bring(w); brought != nil {
		err = brought
	}
	a.answered = w.revision
	return err
}

// lookAfter is how long to wait before looking again when there is no news: long where
// all is as it is wished for, because a node may have many volumes that nobody uses.
func (a *attachment) lookAfter(err error) time.Duration {
	if err != nil || a.unchanged != "" || len(a.groups) > 0 || a.head == nil || a.said == nil || a.unsaid ||
		len(a.said.Conditions) > 0 || a.said.State != v1.AttachmentState_ATTACHMENT_STATE_ATTACHED {
		return reportAttachment
	}
	// All calm ones look at the same time, so that an idle machine wakes up once for them.
	return reportCalm - a.d.node.loop.Now()%reportCalm
}

// complain logs an error, once while it stays the same.
func (a *attachment) complain(err error) {
	text := complaint(err)
	if text != "" && text != a.complained {
		a.log.Warn("what is wished for can't be done now", obs.Err(err))
	}
	a.complained = text
}

// reportAttachment is how often an attachment looks whether there is something new to say.
const reportAttachment = time.Second

// reportCalm is the same where all is well. Its head tells at once when that changes.
const reportCalm = 10 * time.Second

// bring does what is missing for a wish.
func (a *attachment) bring(w wish) error {
	if w.nothing() {
		return a.detach()
	}
	aborted := w.attach != nil && w.attach.Aborted
	if aborted { // first: it may be that nothing else can be done
		if err := a.abort(); err != nil {
			return err
		}
	}
	if a.head == nil {
		if err := a.claim(); err != nil {
			return err
		}
	}
	a.tended(a.tend(w))
	switch {
	case w.attach == nil && a.show != nil:
		return a.hide()
	case w.attach == nil:
		return a.bury()
	case aborted:
		return nil
	case a.show == nil:
		if err := a.bury(); err != nil {
			return err
		}
		if err := a.present(w); err != nil {
			return err
		}
	}
	return a.mount(w)
}

// tended notes what kept the volume from being changed as is wished for.
func (a *attachment) tended(err error) {
	if text := complaint(err); text != "" && text != a.unchanged {
		a.log.Warn("the volume can't be changed now as is wished for", obs.Err(err))
	}
	a.unchanged = complaint(err)
}

// complaint returns what an error says to people, "" for one that nobody needs to know.
func complaint(err error) string {
	if err == nil || fault.Is(err, fault.Canceled) {
		return ""
	}
	what, cure := fault.Describe(err)
	if cure != "" {
		what += "; " + cure
	}
	return what
}

// tend brings the volume itself, as far as only its head can, to what is wished for.
func (a *attachment) tend(w wish) error {
	if err := a.acceptLoss(w); err != nil {
		return err
	}
	if !a.servesNow() {
		return nil
	}
	return errors.Join(a.limit(w), a.members(w), a.grow(w), a.snapshots(), a.restore())
}

// servesNow reports whether the head serves.
func (a *attachment) servesNow() (serves bool) {
	h := a.head
	a.d.node.do(func() { serves = !h.over && h.coord.Serving(h.n.loop.Now()) })
	return serves
}

// claim starts the head, and waits until it serves.
func (a *attachment) claim() error {
	ctx, cancel := context.WithTimeout(a.d.ctx, recordTimeout)
	defer cancel()
	rec, _, err := stateRecords{a.d.o.Store}.get(ctx, a.id)
	if err != nil {
		return err
	}
	if _, err := (stateRecords{a.d.o.Store}).mayClaim(ctx, a.id, a.d.o.Node.String()); err != nil {
		return err // the news that it was moved are on their way
	}
	if a.left != nil && rec.Owner != a.d.o.Node {
		// Another node had the volume meanwhile: what waits in the device is older than what
		// was written there.
		if err := a.discard(); err != nil {
			return err
		}
	}
	lost := make(chan error, 1)
	n := a.d.node
	if !n.do(func() {
		if n.heads[rec.Volume] != nil {
			return
		}
		a.head = n.newHead(rec, &records{n: n, of: stateRecords{a.d.o.Store}}, func(err error) { lost <- err })
		a.head.news = a.wake
	}) || a.head == nil {
		return fault.Errorf("node.claim", fault.Unavailable, "the volume's head before this one has not ended")
	}
	a.lost, a.limited, a.repaired = lost, nil, 0
	return nil
}

// serves waits until the head serves. While it does not, news are looked at: the wish may
// have changed.
func (a *attachment) serves() error {
	serving := make(chan error, 1)
	h := a.head
	a.d.node.do(func() { h.whenServing(func(err error) { serving <- err }) })
	wish := a.wished()
	look := time.NewTicker(reportAttachment)
	defer look.Stop()
	for {
		select {
		case err := <-serving:
			return err
		case <-look.C:
			a.say(fault.Errorf("node.attach", fault.Unavailable, "the volume's replicas have not all agreed yet"))
		case <-a.news:
			if a.leaving() || a.wished() != wish || wish.nothing() && a.elsewhere() {
				a.wake()
				return fault.Errorf("node.attach", fault.Canceled, "something else is wished for")
			}
		case <-a.d.ctx.Done():
			return fault.Errorf("node.attach", fault.Canceled, "the data process ends")
		}
	}
}

// present makes the device that is wished for, or takes it over.
func (a *attachment) present(w wish) error {
	d := frontend.Device{Options: attach.Options{Volume: a.head.volume, Name: w.volume.Meta.Name, BlockSize: int(w.volume.Spec.SectorBytes),
		ReadOnly: w.attach.ReadOnly, NoDiscard: w.volume.Spec.NoDiscard}}
	var of *v1.SnapshotStatus
	if w.attach.SnapshotId != "" {
		if of = a.snapStatus(w.attach.SnapshotId); !of.Ready {
			return fault.Errorf("node.attach", fault.NotFound, "the snapshot that is to be shown is not there: %s", of.Problem)
		}
		d.Options.ReadOnly = true
	}
	if a.left != nil {
		d.Kind = a.left.Kind // it is taken over, whatever would be chosen today
	} else {
		wanted, err := frontend.Parse(w.attach.Frontend)
		if err != nil {
			return err
		}
		if d.Kind, err = frontend.Choose(wanted); err != nil {
			return err
		}
	}
	return a.serve(d, of)
}

// takeOver takes over a device that was left and that nobody wishes for any more, so
// that what was written through it reaches the volume before it goes. If the volume is
// gone, or another node has it by now, nothing can reach it: the device only fails.
func (a *attachment) takeOver() error {
	if a.head == nil {
		rec, _, err := stateRecords{a.d.o.Store}.get(a.d.ctx, a.id)
		if fault.Is(err, fault.NotFound) || err == nil && rec.Owner != a.d.o.Node {
			return a.discard()
		}
		if err == nil {
			err = a.claim()
		}
		if err != nil {
			return err
		}
	}
	return a.serve(*a.left, nil)
}

// discard takes away the device that was left: this node has lost its volume, and to take
// it over would be to compete with the node that has it.
func (a *attachment) discard() error {
	name := a.left.Options.Name
	a.log.Warn("taking away the device of a volume that this node has no more", "name", name)
	a.drop()
	if err := a.d.keeper().Remove(a.d.ctx, name); err != nil {
		return err
	}
	a.dead, a.left, a.mounted = name, nil, ""
	return a.bury()
}

// serve makes the device, or takes it over, once the head serves: of the volume, or of
// a snapshot.
func (a *attachment) serve(d frontend.Device, of *v1.SnapshotStatus) error {
	o := d.Options
	if err := a.serves(); err != nil {
		return err
	}
	o.Loop, o.Node, o.Depth, o.LargeDepth = a.d.node.loop, a.d.o.Node, deviceDepth, deviceLargeDepth
	o.Wait, o.LinkDir, o.Log = a.d.o.Wait, a.d.o.LinkDir, a.log
	h := a.head
	a.d.node.do(func() {
		a.back = newBackend(h, deviceDepth)
		if o.Size = h.coord.Record().Size; of != nil {
			o.Size, a.back.generation = of.SizeBytes, block.Generation(of.Generation)
		}
	})
	a.shown = o.Size
	if o.Backend = a.back; o.BlockSize == 512 {
		o.Backend = attach.NewSectors(a.back, deviceDepth)
	}
	o.Fence = h.whenServing
	f, err := a.start(d.Kind, o)
	if err != nil {
		return err
	}
	a.left, a.kind, a.name, a.snapshot = nil, d.Kind, o.Name, of != nil
	a.showing(f)
	if path := f.Device().Path; path != "" { // one that was taken over may be as small as its volume was once
		if a.shown, err = attach.SizeOf(path); err != nil {
			return err
		}
	}
	a.log.Info("attached", "device", f.Device().Link, "address", a.address(), "name", o.Name)
	return nil
}

// kept is a front end whose device a keeper holds on to.
type kept interface {
	// Keep puts the device into another keeper, after the one before was lost. Until that is
	// done the device ends with this process.
	Keep(context.Context, *keeper.Client) error
}

// keepTimeout is how long a keeper may take to answer.
const keepTimeout = 10 * time.Second

// keep puts the device into the node's keeper, if that is another one than has it: one
// that died.
func (a *attachment) keep() error {
	f, ok := a.show.(kept)
	k := a.d.keeper()
	if !ok || a.keptBy == k {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, keepTimeout)
	defer cancel()
	if err := f.Keep(ctx, k); err != nil {
		return err
	}
	a.keptBy = k
	a.log.Info("another keeper holds on to the device", "pid", k.PID())
	return nil
}

// start makes a front end and starts it.
func (a *attachment) start(k frontend.Kind, o attach.Options) (attach.Frontend, error) {
	shared, err := a.d.shared()
	if err != nil {
		return nil, err
	}
	c := frontend.Config{Keeper: a.d.keeper(), Errand: a.d.o.Errand, Pool: shared}
	if k == frontend.Export {
		at, err := a.d.export.open(o.Name, a.wished().attach.GetExport())
		if err != nil {
			return nil, err
		}
		a.export, c.Server = at, at.server
	}
	f, err := frontend.New(k, o, c)
	if err == nil {
		err = f.Start(a.d.ctx)
	}
	if err != nil {
		a.unexport()
		return nil, err
	}
	a.keptBy = c.Keeper
	return f, nil
}

// address is where clients find the volume, if it is exported.
func (a *attachment) address() string {
	if a.export == nil || a.show == nil {
		return ""
	}
	return a.export.uri(a.name)
}

// unexport leaves the address of an export that is none any more.
func (a *attachment) unexport() {
	if a.export != nil {
		a.export.leave()
		a.export = nil
	}
}

// hide takes the device away.
func (a *attachment) hide() error {
	ctx, cancel := context.WithTimeout(a.d.ctx, detachTimeout)
	defer cancel()
	if err := a.unmount(ctx, ""); err != nil {
		return err
	}
	err := a.show.Stop(ctx)
	if fault.Is(err, fault.Busy) && a.kind != frontend.Export {
		return fault.WithCure(err, "unmount it, and end what has it open")
	}
	if err == nil {
		a.showing(nil)
	}
	return err
}

// giveUp takes the device away. One that is in use stays, unless the volume was taken from
// this node by force: then its users get errors.
func (a *attachment) giveUp() error {
	err := a.hide()
	if !fault.Is(err, fault.Busy) || !a.elsewhere() {
		return err
	}
	a.log.Warn("the volume was taken from this node while it is in use: its users get errors", obs.Err(err))
	if err := a.show.Abort(); err != nil {
		return err
	}
	<-a.show.Ended()
	a.died()
	return a.bury()
}

// detachTimeout is how long the last writes of a device may take, before it is said that
// they do.
const detachTimeout = 30 * time.Second

// detach takes device and head away.
func (a *attachment) detach() error {
	switch {
	case a.show == nil && a.left != nil && a.elsewhere():
		if err := a.discard(); err != nil {
			return err
		}
	case a.show == nil && a.left != nil:
		if err := a.takeOver(); err != nil {
			return err
		}
	}
	if err := a.bury(); err != nil {
		return err
	}
	if a.show != nil {
		if err := a.giveUp(); err != nil {
			return err
		}
	}
	if err := a.release(); err != nil {
		return err
	}
	if a.said != nil {
		if err := a.unsay(); err != nil {
			return err
		}
		a.said = nil
	}
	return nil
}

// release gives the volume back: everything is written, the record says that nobody owns
// it, and the next owner need not wait for a lease. If that can't be said in time, the
// leases run out by themselves.
func (a *attachment) release() error {
	if a.head == nil {
		return nil
	}
	h := a.head
	a.d.node.do(func() { h.step(coordinator.Detach{}, nil) })
	select {
	case why := <-a.lost:
		if !h.coord.Detached() {
			a.log.Warn("the volume was lost while it was given back", "why", why)
		}
	case <-time.After(detachTimeout):
		a.log.Warn("the volume can't be given back in order: its leases will run out")
		a.drop()
	case <-a.d.ctx.Done():
		a.drop()
	}
	a.head, a.back, a.lost = nil, nil, nil
	return nil
}

// abort has everything fail that waits, and all that comes.
func (a *attachment) abort() error {
	if a.show == nil && a.left != nil {
		a.log.Warn("aborted, as was wished for, before it was taken over")
		return a.discard()
	}
	if a.show == nil {
		return nil
	}
	a.log.Warn("aborted, as was wished for")
	if err := a.show.Abort(); err != nil {
		return err
	}
	if h := a.head; h != nil {
		a.d.node.do(func() { h.step(coordinator.Abort{}, nil) })
	}
	<-a.show.Ended()
	a.died()
	return nil
}

// drop takes the head away, whatever it is doing.
func (a *attachment) drop() {
	if a.head == nil {
		return
	}
	h := a.head
	a.d.node.do(h.abandon)
	a.head, a.back, a.lost = nil, nil, nil
}

// lose follows a head that has lost its volume: the device can serve nobody any more.
func (a *attachment) lose(why error) {
	a.log.Warn("the volume was lost", "why", why)
	a.head, a.back, a.lost = nil, nil, nil
	if a.show != nil {
		if err := a.show.Abort(); err != nil {
			a.log.Error("a device that lost its volume can't be taken away", "err", err)
		}
		<-a.show.Ended()
		a.died()
	}
	a.say(why)
}

// ended returns what is closed when the device has ended by itself.
func (a *attachment) ended() <-chan struct{} {
	if a.show == nil {
		return nil
	}
	return a.show.Ended()
}

func (a *attachment) deviceGone() {
	a.log.Warn("the device was taken away", "err", a.show.Err())
	a.died()
}

// showing notes what shows the volume; nil is nothing.
func (a *attachment) showing(f attach.Frontend) {
	a.fixed = ""
	if a.show = f; f == nil {
		a.unexport()
	}
	a.mu.Lock()
	a.front, a.since = f, time.Now()
	a.mu.Unlock()
}

// frontend returns what shows the volume, or nil. Any goroutine.
func (a *attachment) frontend() attach.Frontend {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.front
}

// handOver leaves the device to the next process.
func (a *attachment) handOver() {
	if a.show != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.d.ctx), detachTimeout)
		defer cancel()
		if err := a.show.HandOver(ctx); err != nil {
			a.log.Warn("the device is left as after a crash", "err", err)
		}
	}
	a.drop()
}

// say writes the attachment's status when it has changed.
func (a *attachment) say(problem error) {
	w := a.wished()
	if w.nothing() && a.said == nil {
		return
	}
	if w.nothing() && !a.sayer() {
		a.said = nil
		return
	}
	now := a.status(w, problem)
	repairs, repaired := a.repairs(now)
	if a.unsaid = a.said == nil || worthSaying(a.said, now) || len(repairs) > 0; !a.unsaid {
		return
	}
	if _, err := a.d.o.Store.Commit(a.d.ctx, append(repairs, state.AttachStatuses.Put(a.id, now))...); err == nil {
		a.said, a.unsaid, a.repaired = now, false, repaired
		if len(repairs) > 0 {
			a.repairsTold = time.Now()
		}
	}
}

// sayer reports whether what is said of the volume is this node's. Another node's word
// is about where the volume is now, and must stay.
func (a *attachment) sayer() bool {
	e, err := state.AttachStatuses.Get(a.d.ctx, a.d.o.Store, a.id)
	return err == nil && e.Value.NodeId == a.d.o.Node.String()
}

// unsay takes back what this node said of the volume.
func (a *attachment) unsay() error {
	e, err := state.AttachStatuses.Get(a.d.ctx, a.d.o.Store, a.id)
	switch {
	case fault.Is(err, fault.NotFound), err == nil && e.Value.NodeId != a.d.o.Node.String():
		return nil
	case err != nil:
		return err
	}
	_, err = a.d.o.Store.Commit(a.d.ctx, state.AttachStatuses.Delete(a.id, e.Revision))
	return err
}

// elsewhere reports whether the volume is attached to another node by now.
func (a *attachment) elsewhere() bool {
	at, ok := a.d.view.attachments.Get(a.id)
	return ok && at.Value.Spec.GetNodeId() != a.d.o.Node.String()
}

// died notes that the device can only fail from now on.
func (a *attachment) died() {
	if link := a.show.Device().Link; link != "" { // an export leaves nothing
		a.dead = filepath.Base(link)
	}
	a.mounted = ""
	a.showing(nil)
}

// bury takes away a device that has died, and off where it is mounted. Until then who
// looks there gets errors, and not what lies below.
func (a *attachment) bury() error {
	if a.dead == "" {
		return nil
	}
	entries, err := a.d.keeper().List(a.d.ctx)
	if err != nil {
		return err
	}
	sweep := frontend.Leftovers{Node: a.d.o.Node, LinkDir: a.d.o.LinkDir, Unmount: true, Errand: a.d.o.Errand, Kept: entries, Only: a.dead}
	if err := sweep.Sweep(a.d.ctx); err != nil {
		return err
	}
	a.dead = ""
	return nil
}
