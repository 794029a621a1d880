// Package etcd is the state.Store of a cluster: a client of etcd, embedded (package member)
// or somebody else's.
//
// It uses one member at a time and turns to the next when one does not answer, so that a
// member that is frozen or cut off costs seconds, not what TCP takes to notice. Watches go
// on where they were, and a commit is only sent where a read has just been answered, which
// keeps the cases in which nobody knows whether it was done rare. It may be opened while
// no member can be reached.
//
// If what answers is another etcd cluster than before, restored from a dump say, all
// watches end, so that nobody waits for revisions that will never come.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// Options say how etcd is reached.
type Options struct {
	// Endpoints are URLs of members, to be tried in any order, but Prefer first if it is one
	// of them.
	Endpoints []string
	Prefer    string
	// TLS is for https endpoints.
	TLS *tls.Config
	// Username and Password are for an etcd with users.
	Username, Password string
	// Prefix is put before every key, for an etcd that is not this cluster's alone.
	Prefix string
	// Follow keeps Endpoints as the members are, for an embedded etcd, and tells Remember,
	// which may be nil, when they have changed.
	Follow   bool
	Remember func(endpoints []string)
}

// Time-outs.
const (
	dialMax    = 2 * time.Second  // for logging in
	attemptMax = 2 * time.Second  // for a read by one member
	commitMax  = 4 * time.Second  // for a commit, once it is sent
	callMax    = 6 * time.Second  // for all of a call whose context has no end
	provenFor  = time.Second      // a member that answered is not asked whether it is there
	graceAfter = 2 * commitMax    // a member that was left may still answer what it was asked
	followIn   = 30 * time.Second // between looks at who the members are
)

// Store is a state.Store.
type Store struct {
	o    Options
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu        sync.Mutex
	endpoints []string
	at        int // in endpoints
	current   *session
	failures  int // since something was answered

	identity sync.Mutex // may be locked under mu, where logging in is answered
	cluster  uint64
	other    chan struct{} // closed when another cluster answers
}

// session is the use of one member.
type session struct {
	client   *clientv3.Client
	endpoint string
	over     chan struct{} // closed when it is not used any more

	mu     sync.Mutex
	proven time.Time // when it answered last
}

// Open returns a store. It asks nobody yet: only nonsense in o is an error.
func Open(o Options) (*Store, error) {
	if len(o.Endpoints) == 0 {
		return nil, fault.Errorf("etcd.Open", fault.Invalid, "no endpoint of etcd is given")
	}
	s := &Store{o: o, endpoints: slices.Clone(o.Endpoints), other: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.order()
	if o.Follow {
		go s.follow()
	}
	return s, nil
}

// Close ends watches, and leases without revoking them.
func (s *Store) Close() error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		close(s.current.over)
		_ = s.current.client.Close() // nothing is lost with it
		s.current = nil
	}
	return nil
}

// key returns the key as etcd has it.
func (s *Store) key(key string) string { return s.o.Prefix + key }

// item returns what etcd has as an item.
func (s *Store) item(key, value []byte, revision int64) state.Item {
	return state.Item{Key: strings.TrimPrefix(string(key), s.o.Prefix), Value: value, Revision: state.Revision(revision)}
}

// Get returns an item.
func (s *Store) Get(ctx context.Context, key string) (state.Item, error) {
	var r *clientv3.GetResponse
	err := s.read(ctx, "state.Get", func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, s.key(key))
		return err
	})
	if err != nil {
		return state.Item{}, err
	}
	if len(r.Kvs) == 0 {
		return state.Item{}, fault.Errorf("state.Get", fault.NotFound, "there is no %s", key)
	}
	return s.item(r.Kvs[0].Key, r.Kvs[0].Value, r.Kvs[0].ModRevision), nil
}

// pageItems is how many items are asked for at once.
const pageItems = 1000

// List returns all items below prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]state.Item, state.Revision, error) {
	const op = "state.List"
	for {
		items, revision, err := s.list(ctx, op, prefix)
		if fault.Is(err, fault.Precondition) && ctx.Err() == nil {
			continue // it took so long that the revision was forgotten
		}
		return items, revision, err
	}
}

func (s *Store) list(ctx context.Context, op, prefix string) (items []state.Item, revision state.Revision, err error) {
	from, end := s.key(prefix), clientv3.GetPrefixRangeEnd(s.key(prefix))
	for {
		var r *clientv3.GetResponse
		err := s.read(ctx, op, func(ctx context.Context, c *clientv3.Client) (err error) {
			r, err = c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageItems), clientv3.WithRev(int64(revision)))
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = state.Revision(r.Header.Revision)
		}
		for _, kv := range r.Kvs {
			items = append(items, s.item(kv.Key, kv.Value, kv.ModRevision))
		}
		if !r.More || len(r.Kvs) == 0 {
			return items, revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// Commit does all ops or none.
func (s *Store) Commit(ctx context.Context, ops ...state.Op) (state.Revision, error) {
	const op = "state.Commit"
	if err := state.Check(ops); err != nil {
		return 0, err
	}
	conditions, effects, looks := s.translate(ops)
	var r *clientv3.TxnResponse
	err := s.once(ctx, op, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Txn(ctx).If(conditions...).Then(effects...).Else(looks...).Commit()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case !r.Succeeded:
		return 0, s.refusal(op, ops, r)
	}
	return state.Revision(r.Header.Revision), nil
}

// translate returns ops in etcd's words, and what to look at if a condition fails.
func (s *Store) translate(ops []state.Op) (conditions []clientv3.Cmp, effects, looks []clientv3.Op) {
	for _, o := range ops {
		key := s.key(o.Key)
		switch o.Must {
		case state.MustBeMissing:
			conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		case state.MustBeAt:
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(key), "=", int64(o.Revision)))
		}
		if o.Must != state.MustNothing {
			looks = append(looks, clientv3.OpGet(key, clientv3.WithKeysOnly()))
		}
		switch o.Does {
		case state.DoesPut:
			effects = append(effects, clientv3.OpPut(key, string(o.Value), clientv3.WithLease(clientv3.LeaseID(o.Lease))))
		case state.DoesDelete:
			effects = append(effects, clientv3.OpDelete(key))
		}
	}
	return conditions, effects, looks
}

// refusal says which condition did not hold.
func (s *Store) refusal(op string, ops []state.Op, r *clientv3.TxnResponse) error {
	i := 0
	for _, o := range ops {
		if o.Must == state.MustNothing {
			continue
		}
		var at state.Revision
		if kvs := r.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			at = state.Revision(kvs[0].ModRevision)
		}
		i++
		switch {
		case o.Must == state.MustBeMissing && at != 0:
			return fault.Errorf(op, fault.Busy, "%s exists", o.Key)
		case o.Must == state.MustBeAt && at == 0:
			return fault.Errorf(op, fault.Busy, "%s is gone", o.Key)
		case o.Must == state.MustBeAt && at != o.Revision:
			return fault.Errorf(op, fault.Busy, "%s is at revision %d, not %d", o.Key, at, o.Revision)
		}
	}
	return fault.Errorf(op, fault.Internal, "etcd refused conditions that hold")
}

// Lead waits until who leads name.
func (s *Store) Lead(ctx context.Context, name, who string) (state.Leadership, error) {
	return state.Campaign(ctx, s, name, who)
}

// follow keeps the endpoints as the members are: it looks at once, whenever the steward of
// the members says that they changed, and now and then.
func (s *Store) follow() {
	for s.ctx.Err() == nil {
		_, at, err := s.List(s.ctx, state.MembersKey)
		if err == nil {
			err = s.lookAround()
		}
		if err != nil {
			select {
			case <-time.After(againMost):
			case <-s.ctx.Done():
			}
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, followIn/2+rand.N(followIn))
		<-s.Watch(ctx, state.MembersKey, at)
		cancel()
	}
}

// lookAround takes over who the members are.
func (s *Store) lookAround() error {
	var r *clientv3.MemberListResponse
	err := s.read(s.ctx, "etcd.follow", func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.MemberList(ctx)
		return err
	})
	if err == nil {
		s.setEndpoints(clientURLs(r.Members))
	}
	return err
}

// clientURLs returns how the members that vote are reached.
func clientURLs(members []*pb.Member) (urls []string) {
	for _, m := range members {
		if !m.IsLearner {
			urls = append(urls, m.ClientURLs...)
		}
	}
	slices.Sort(urls)
	return urls
}

// order puts the endpoints into the order in which they are tried.
func (s *Store) order() {
	rand.Shuffle(len(s.endpoints), func(i, j int) { s.endpoints[i], s.endpoints[j] = s.endpoints[j], s.endpoints[i] })
	if i := slices.Index(s.endpoints, s.o.Prefer); i > 0 {
		s.endpoints[0], s.endpoints[i] = s.endpoints[i], s.endpoints[0]
	}
	s.at = 0
}

// setEndpoints changes which members there are to turn to.
func (s *Store) setEndpoints(urls []string) {
	s.mu.Lock()
	was := slices.Sorted(slices.Values(s.endpoints))
	same := len(urls) == 0 || slices.Equal(was, slices.Sorted(slices.Values(urls)))
	if !same {
		s.endpoints = slices.Clone(urls)
		s.order()
		if s.current != nil && s.endpoints[0] == s.o.Prefer && s.current.endpoint != s.o.Prefer {
			s.drop(s.current)
		}
	}
	s.mu.Unlock()
	if !same && s.o.Remember != nil {
		s.o.Remember(urls)
	}
}

// config is how a client of one member is made.
func (s *Store) config(endpoint string) clientv3.Config {
	c := clientv3.Config{
		Endpoints:            []string{endpoint},
		Context:              s.ctx,
		DialTimeout:          dialMax,
		DialKeepAliveTime:    10 * time.Second, // grpc takes no less
		DialKeepAliveTimeout: 3 * time.Second,
		Username:             s.o.Username,
		Password:             s.o.Password,
		MaxUnaryRetries:      1, // retrying is done here
		Logger:               zap.NewNop(),
		DialOptions:          s.observers(),
	}
	if strings.HasPrefix(endpoint, "https:") || strings.HasPrefix(endpoint, "unixs:") {
		c.TLS = s.o.TLS
		if c.TLS == nil {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	return c
}

// errClosed is why a closed store does nothing.
var errClosed = errors.New("the store is closed")
