package member

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
)

// Agent runs this node's member while it has one: it starts it when the steward has added
// it, and ends it, and forgets its data, when it is a member no more. Its fields are set
// once.
type Agent struct {
	// Server says what the server is; Cluster and Token are the agent's business.
	Server Options
	// Store reaches the members, this one too.
	Store *etcd.Store
	// Others returns the URLs of members at which to ask whether the cluster went on
	// without this node, restored from a dump.
	Others func() []string
	Log    *slog.Logger

	kept   kept
	server *Server
}

// The files of an agent, in Options.Dir; etcd's own are beside them.
const (
	keptFile = "member.json"
	dataDir  = "etcd"
)

// kept is what an agent remembers of its member.
type kept struct {
	Token       string            `json:"token"`
	Cluster     map[string]string `json:"cluster,omitempty"` // Options.Cluster
	Incarnation int64             `json:"incarnation"`       // of the cluster's metadata
}

const (
	checkEvery    = 30 * time.Second // whether it is a member still
	startAgain    = 3 * time.Second
	leaderlessMax = 15 * time.Second // before others are asked whether the cluster went on
)

// Found makes the member in dir begin a cluster when the agent runs, as the first one.
func Found(dir, token string, incarnation int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap("member.Found", err)
	}
	return save(dir, kept{Token: token, Incarnation: incarnation})
}

// Exists reports whether there is a member in dir.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, keptFile))
	return err == nil
}

// Kept returns the incarnation of the cluster's metadata that the member in dir knew last.
func Kept(dir string) (int64, error) {
	k, err := load(dir)
	return k.Incarnation, err
}

func load(dir string) (k kept, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, keptFile))
	if err != nil {
		return k, fault.Wrap("member.load", err)
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return k, fault.Errorf("member.load", fault.Corrupt, "%s: %w", filepath.Join(dir, keptFile), err)
	}
	return k, nil
}

func save(dir string, k kept) error {
	raw, err := json.Marshal(k)
	if err != nil {
		return fault.E("member.save", fault.Internal, block.VolumeID{}, err)
	}
	path := filepath.Join(dir, keptFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Wrap("member.save", err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	return fault.Wrap("member.save", err)
}

// Forget puts the member's data aside, so that there is none. What was put aside before is
// deleted.
func Forget(dir string) error {
	const op = "member.Forget"
	if err := os.Remove(filepath.Join(dir, keptFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(op, err)
	}
	aside := filepath.Join(dir, dataDir+".old")
	if err := os.RemoveAll(aside); err != nil {
		return fault.Wrap(op, err)
	}
	err := os.Rename(filepath.Join(dir, dataDir), aside)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fault.Wrap(op, err)
}

// Run works until ctx ends; then the server is stopped.
func (a *Agent) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if !Exists(a.Server.Dir) {
			a.awaitInvitation(ctx)
			continue
		}
		if err := a.serve(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("this node's member of the metadata store does not run", obs.Err(err))
			pause(ctx, startAgain)
		}
	}
}

// awaitInvitation returns when this node is a member that has not begun.
func (a *Agent) awaitInvitation(ctx context.Context) {
	poke, stop := a.pokes(ctx)
	defer stop()
	for {
		list, err := List(ctx, a.Store)
		if err == nil && a.invited(list) {
			if err = a.accept(ctx, list); err == nil {
				return
			}
		}
		if err != nil && ctx.Err() == nil {
			a.Log.Debug("whether this node is to have a member of the metadata store is not known", obs.Err(err))
		}
		select {
		case <-poke:
		case <-time.After(checkEvery):
		case <-ctx.Done():
			return
		}
	}
}

// pokes returns what has a value when the members may have changed.
func (a *Agent) pokes(ctx context.Context) (<-chan state.Batch, func()) {
	ctx, stop := context.WithCancel(ctx)
	out := make(chan state.Batch)
	go func() {
		for ctx.Err() == nil {
			_, at, err := a.Store.List(ctx, state.MembersKey)
			if err != nil {
				pause(ctx, startAgain)
				continue
			}
			for b := range a.Store.Watch(ctx, state.MembersKey, at) {
				select {
				case out <- b:
				case <-ctx.Done():
				}
			}
		}
	}()
	return out, stop
}

// mine returns this node's member, or nil.
func (a *Agent) mine(list []*pb.Member) *pb.Member {
	for _, m := range list {
		if m.Name == a.Server.Name || slices.Contains(m.PeerURLs, a.Server.PeerURL) {
			return m
		}
	}
	return nil
}

func (a *Agent) invited(list []*pb.Member) bool {
	m := a.mine(list)
	return m != nil && m.Name == "" // one with a name has begun, and its data is lost
}

// accept remembers that there is a member here.
func (a *Agent) accept(ctx context.Context, list []*pb.Member) error {
	k := kept{Token: "joins", Cluster: map[string]string{}}
	for _, m := range list {
		name := m.Name
		if slices.Contains(m.PeerURLs, a.Server.PeerURL) {
			name = a.Server.Name
		}
		if name == "" {
			name = strconv.FormatUint(m.ID, 16)
		}
		for _, url := range m.PeerURLs {
			k.Cluster[name] = url
		}
	}
	var err error
	if k.Incarnation, err = Incarnation(ctx, a.Store); err != nil {
		return err
	}
	if err := os.MkdirAll(a.Server.Dir, 0o700); err != nil {
		return fault.Wrap("member.accept", err)
	}
	return save(a.Server.Dir, k)
}

// serve runs the server until ctx ends, it stops, or it is a member no more.
func (a *Agent) serve(ctx context.Context) (err error) {
	if a.kept, err = load(a.Server.Dir); err != nil {
		return err
	}
	if a.superseded(ctx) {
		return a.step(ctx, "the metadata was restored elsewhere while this node was away")
	}
	o := a.Server
	o.Token, o.Cluster = a.kept.Token, a.kept.Cluster
	if a.server, err = Start(ctx, o); err != nil {
		return a.startFailed(ctx, err)
	}
	defer a.server.Close()
	a.Log.Info("this node's member of the metadata store runs", "url", o.ClientURL)
	return a.watch(ctx)
}

// startFailed finds out why the server does not start: that it is a member no more, or
// that other members came while it tried to begin.
func (a *Agent) startFailed(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return nil
	}
	list, err := List(ctx, a.Store)
	if fault.Is(err, fault.Denied) {
		return errors.Join(why, a.step(ctx, "the node was removed from the cluster"))
	}
	if err != nil {
		return why
	}
	switch m := a.mine(list); {
	case m == nil:
		return errors.Join(why, a.step(ctx, "it is a member no more"))
	case m.Name == "":
		return errors.Join(why, Forget(a.Server.Dir)) // and begin with the members of now
	}
	return why
}

// watch returns when the server is not to run any more; an error when it should.
func (a *Agent) watch(ctx context.Context) error {
	poke, stop := a.pokes(ctx)
	defer stop()
	led := time.Now()
	look := time.NewTicker(startAgain)
	defer look.Stop()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		gone, why := false, "it was removed"
		select {
		case <-ctx.Done():
			return nil
		case <-a.server.Stopped():
			if gone = a.isGone(ctx); !gone {
				return fault.Errorf("member.Agent", fault.Unavailable, "etcd has stopped by itself")
			}
		case <-poke:
			gone = a.isGone(ctx)
		case <-check.C:
			gone = a.isGone(ctx)
			a.remember(ctx)
			a.move(ctx)
		case <-look.C:
			if a.server.HasLeader() {
				led = time.Now()
			}
			if time.Since(led) > leaderlessMax {
				led = time.Now()
				gone, why = a.superseded(ctx), "the metadata was restored elsewhere"
			}
		}
		if gone {
			a.server.Close()
			return a.step(ctx, why)
		}
	}
}

// step makes the node one without a member.
func (a *Agent) step(_ context.Context, why string) error {
	a.Log.Warn("this node's member of the metadata store ends, and its data is put aside", "because", why)
	return Forget(a.Server.Dir)
}

// isGone reports whether the other members say that this is none. A cluster of an earlier
// incarnation has nothing to say.
func (a *Agent) isGone(ctx context.Context) bool {
	list, err := List(ctx, a.Store)
	if err != nil || len(list) == 0 || slices.ContainsFunc(list, func(m *pb.Member) bool { return m.ID == a.server.ID() }) {
		return false
	}
	n, err := Incarnation(ctx, a.Store)
	return err == nil && n >= a.kept.Incarnation
}

// move tells the cluster when the member is reached at another address than it knows.
func (a *Agent) move(ctx context.Context) {
	list, err := List(ctx, a.Store)
	if err != nil {
		return // next time
	}
	for _, m := range list {
		if m.ID != a.server.ID() || slices.Contains(m.PeerURLs, a.Server.PeerURL) {
			continue
		}
		err := a.Store.Tell(ctx, "member.move", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.MemberUpdate(ctx, m.ID, []string{a.Server.PeerURL})
			return err
		})
		a.Log.Info("this node's member of the metadata store has another address", "url", a.Server.PeerURL, obs.Err(err))
	}
}

// Incarnation returns how often the cluster's metadata was restored.
func Incarnation(ctx context.Context, s state.Store) (int64, error) {
	item, err := s.Get(ctx, state.IncarnationKey)
	if fault.Is(err, fault.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(item.Value), 10, 64)
	if err != nil {
		return 0, fault.Errorf("member.Incarnation", fault.Corrupt, "%s: %w", state.IncarnationKey, err)
	}
	return n, nil
}

// remember keeps the cluster's incarnation, so that a later one is known as such.
func (a *Agent) remember(ctx context.Context) {
	n, err := Incarnation(ctx, a.Store)
	if err != nil || n == a.kept.Incarnation {
		return
	}
	a.kept.Incarnation = n
	if err := save(a.Server.Dir, a.kept); err != nil {
		a.Log.Warn("can't remember the incarnation of the metadata", obs.Err(err))
	}
}

// superseded reports whether some other member is of a later incarnation.
func (a *Agent) superseded(ctx context.Context) bool {
	var later atomic.Bool
	var group sync.WaitGroup
	for _, url := range a.Others() {
		if url == a.Server.ClientURL {
			continue
		}
		group.Go(func() {
			if n, err := a.ask(ctx, url); err == nil && n > a.kept.Incarnation {
				later.Store(true)
			}
		})
	}
	group.Wait()
	return later.Load()
}

// ask returns the incarnation at one member.
func (a *Agent) ask(ctx context.Context, url string) (int64, error) {
	o := etcd.Options{Endpoints: []string{url}}
	if a.Server.Wallet != nil {
		o.TLS = a.Server.Wallet.Client()
	}
	s, err := etcd.Open(o)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	return Incarnation(ctx, s)
}
