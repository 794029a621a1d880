package member

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
)

// Steward keeps the members as Plan wants them: on one node at a time, the leader. Its
// fields are set once.
type Steward struct {
	Store        *etcd.Store
	Node         string // on which it runs
	TLS          *tls.Config
	Every        time.Duration // between looks; 0 is 10 s
	ReplaceAfter time.Duration // 0 is 3 min
	Log          *slog.Logger

	down map[uint64]time.Time // since when members are not healthy
	eyes map[string]*clientv3.Client

	known []*pb.Member // as of the last Survey
}

const (
	everyDefault   = 10 * time.Second
	replaceDefault = 3 * time.Minute
	lookMax        = 2 * time.Second // for a member to say how it is
	againAfter     = time.Second     // after a failure of the store
	surveyMax      = 3 * time.Second // for members to say who they are
)

// StewardRole is what stewards compete for.
const StewardRole = "metadata"

// Run works whenever it leads, until ctx ends.
func (s *Steward) Run(ctx context.Context) {
	if s.Every == 0 {
		s.Every = everyDefault
	}
	if s.ReplaceAfter == 0 {
		s.ReplaceAfter = replaceDefault
	}
	s.eyes = map[string]*clientv3.Client{}
	defer s.blind(nil)
	for ctx.Err() == nil {
		lead, err := s.Store.Lead(ctx, StewardRole, s.Node)
		if err == nil {
			s.down = map[uint64]time.Time{}
			s.lead(ctx, lead)
			_ = lead.Resign() // or it runs out
		}
		pause(ctx, againAfter)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// lead looks and acts until it does not lead any more.
func (s *Steward) lead(ctx context.Context, lead state.Leadership) {
	for {
		acted, err := s.step(ctx, lead)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("the members of the metadata store can't be tended now", obs.Err(err))
		}
		wait := s.Every
		if acted && err == nil {
			wait = min(wait, againAfter)
		}
		select {
		case <-time.After(wait):
		case <-lead.Lost():
			return
		case <-ctx.Done():
			return
		}
	}
}

// step looks, and does the next step if there is one.
func (s *Steward) step(ctx context.Context, lead state.Leadership) (acted bool, err error) {
	sit, err := s.look(ctx)
	if err != nil {
		return false, err
	}
	step := Plan(sit)
	if step.Verb == Nothing {
		return false, nil
	}
	if err := s.perform(ctx, step); err != nil {
		return false, err
	}
	node := step.Place.Node
	if step.Verb != Add {
		node = step.Member.Place.Node
	}
	s.Log.Info("the members of the metadata store change", "verb", step.Verb.String(), "of", node, "because", step.Why)
	text := fmt.Sprintf("%s %s at %s", step.Verb, node, time.Now().UTC().Format(time.RFC3339Nano))
	_, err = s.Store.Commit(ctx, lead.Op(), state.Put(state.MembersKey, []byte(text)))
	return true, err
}

func (s *Steward) perform(ctx context.Context, step Step) error {
	return s.Store.Tell(ctx, "member."+step.Verb.String(), func(ctx context.Context, c *clientv3.Client) (err error) {
		switch step.Verb {
		case Add:
			_, err = c.MemberAddAsLearner(ctx, []string{step.Place.PeerURL})
		case Promote:
			_, err = c.MemberPromote(ctx, step.Member.ID)
		case Remove:
			_, err = c.MemberRemove(ctx, step.Member.ID)
		}
		return err
	})
}

// look finds out how members and nodes are.
func (s *Steward) look(ctx context.Context) (Situation, error) {
	list, err := List(ctx, s.Store)
	if err != nil {
		return Situation{}, err
	}
	places, known, err := s.places(ctx)
	if err != nil {
		return Situation{}, err
	}
	s.blind(list)
	sit := Situation{ReplaceAfter: s.ReplaceAfter}
	statuses := s.statuses(ctx, list)
	leader := uint64(0) // the raft index of the member that is farthest
	for _, st := range statuses {
		leader = max(leader, st.GetRaftIndex())
	}
	for i, m := range list {
		st := statuses[i]
		out := Member{ID: m.ID, Learner: m.IsLearner, Place: placeOf(m, places, known), Healthy: st != nil && st.Leader != 0}
		out.CaughtUp = out.Healthy && st.RaftAppliedIndex*10 >= leader*9 // as etcd has it
		out.Down = s.downFor(m.ID, out.Healthy)
		sit.Members = append(sit.Members, out)
	}
	for _, p := range places {
		if !p.Leaving && !slices.ContainsFunc(list, func(m *pb.Member) bool { return slices.Contains(m.PeerURLs, p.PeerURL) }) {
			sit.Free = append(sit.Free, p)
		}
	}
	return sit, nil
}

// List returns the members that there are.
func List(ctx context.Context, s *etcd.Store) ([]*pb.Member, error) {
	var r *clientv3.MemberListResponse
	err := s.Ask(ctx, "member.List", func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.MemberList(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.Members, nil
}

// places returns the nodes that are there, and those that are to be removed; and which
// nodes are in the cluster at all.
func (s *Steward) places(ctx context.Context) (places []Place, known map[string]bool, err error) {
	present, _, err := state.Presences.List(ctx, s.Store)
	if err != nil {
		return nil, nil, err
	}
	nodes, _, err := state.Nodes.List(ctx, s.Store)
	if err != nil {
		return nil, nil, err
	}
	stays, zones := map[string]bool{}, map[string]string{}
	known = map[string]bool{}
	for _, n := range nodes {
		known[n.ID] = true
		stays[n.ID], zones[n.ID] = !n.Value.GetSpec().GetRemoved(), n.Value.GetSpec().GetZone()
	}
	for _, p := range present {
		if p.Value.GetPeerUrl() == "" {
			continue
		}
		places = append(places, Place{Node: p.ID, PeerURL: p.Value.GetPeerUrl(), Zone: zones[p.ID], Leaving: !stays[p.ID]})
	}
	for _, n := range nodes { // of those that are down only the name is known
		if !slices.ContainsFunc(places, func(p Place) bool { return p.Node == n.ID }) {
			places = append(places, Place{Node: n.ID, Zone: zones[n.ID], Leaving: !stays[n.ID]})
		}
	}
	return slices.DeleteFunc(places, func(p Place) bool { return p.PeerURL == "" && !p.Leaving }), known, nil
}

// placeOf returns where a member is. One whose node is in the cluster no more is to go,
// although nobody is there to say so.
func placeOf(m *pb.Member, places []Place, known map[string]bool) Place {
	for _, p := range places {
		if p.Node == m.Name || p.PeerURL != "" && slices.Contains(m.PeerURLs, p.PeerURL) {
			return p
		}
	}
	return Place{Node: m.Name, PeerURL: strings.Join(m.PeerURLs, ","), Leaving: m.Name != "" && !known[m.Name]}
}

// downFor returns how long a member has not been healthy.
func (s *Steward) downFor(id uint64, healthy bool) time.Duration {
	since, known := s.down[id]
	switch {
	case healthy:
		delete(s.down, id)
		return 0
	case !known:
		s.down[id] = time.Now()
		return 0
	}
	return time.Since(since)
}

// statuses asks every member how it is; nil for those that don't say.
func (s *Steward) statuses(ctx context.Context, list []*pb.Member) []*pb.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	out := make([]*pb.StatusResponse, len(list))
	var group sync.WaitGroup
	for i, m := range list {
		if len(m.ClientURLs) == 0 {
			continue
		}
		eye, err := s.eye(m.ClientURLs[0])
		if err != nil {
			continue
		}
		group.Go(func() {
			if r, err := pb.NewMaintenanceClient(eye.ActiveConnection()).Status(ctx, &pb.StatusRequest{}); err == nil {
				out[i] = r
			}
		})
	}
	group.Wait()
	return out
}

// Survey returns the members, and how each is; nil for those that don't say. Without a
// majority nobody says who the members are: then it returns the error, soon, and the
// members that it knew. It may be called of a Steward that does not Run, by one goroutine
// at a time.
func (s *Steward) Survey(ctx context.Context) ([]*pb.Member, []*pb.StatusResponse, error) {
	asking, cancel := context.WithTimeout(ctx, surveyMax)
	defer cancel()
	list, err := List(asking, s.Store)
	if err != nil {
		return s.known, s.statuses(ctx, s.known), err
	}
	s.known = list
	if s.eyes == nil {
		s.eyes = map[string]*clientv3.Client{}
	}
	s.blind(list)
	return list, s.statuses(ctx, list), nil
}

// eye returns a connection to one member.
func (s *Steward) eye(url string) (*clientv3.Client, error) {
	if c := s.eyes[url]; c != nil {
		return c, nil
	}
	c, err := dial(url, s.TLS)
	if err == nil {
		s.eyes[url] = c
	}
	return c, err
}

// dial returns a client of one member.
func dial(url string, secure *tls.Config) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: secure, Logger: zap.NewNop(), MaxUnaryRetries: 1})
	if err != nil {
		return nil, fault.Errorf("member.dial", fault.Invalid, "%s: %w", url, err)
	}
	return c, nil
}

// blind closes connections to members that are not in list.
func (s *Steward) blind(list []*pb.Member) {
	for url, c := range s.eyes {
		if !slices.ContainsFunc(list, func(m *pb.Member) bool { return slices.Contains(m.ClientURLs, url) }) {
			_ = c.Close() // nothing is lost with it
			delete(s.eyes, url)
		}
	}
}
