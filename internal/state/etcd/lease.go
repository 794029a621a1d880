package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// Lease makes a lease.
func (s *Store) Lease(ctx context.Context, ttl time.Duration) (state.Lease, error) {
	l := &lease{store: s, ttl: ttl, lost: make(chan struct{})}
	l.ctx, l.stop = context.WithCancel(s.ctx)
	start := time.Now()
	err := s.read(ctx, "state.Lease", func(ctx context.Context, c *clientv3.Client) error {
		start = time.Now() // a grant that nobody heard of runs out
		r, err := c.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
		if err == nil {
			l.id = r.ID
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	go l.keep(start.Add(ttl))
	return l, nil
}

// lease is a lease of etcd that is renewed by itself. etcd's own way to do that waits for
// the member that it began with.
type lease struct {
	store *Store
	id    clientv3.LeaseID
	ttl   time.Duration
	ctx   context.Context // ends when it is not to be kept any more
	stop  context.CancelFunc
	lost  chan struct{}
	once  sync.Once
}

// keep renews the lease, which runs until end, three times in its life.
func (l *lease) keep(end time.Time) {
	defer l.lose()
	for {
		select {
		case <-time.After(l.ttl / 3):
		case <-l.ctx.Done():
			return
		}
		ctx, cancel := context.WithDeadline(l.ctx, end)
		err := l.store.read(ctx, "state.Lease", func(ctx context.Context, c *clientv3.Client) error {
			sent := time.Now()
			err := l.renew(ctx, c)
			if err == nil {
				end = sent.Add(l.ttl)
			}
			return err
		})
		cancel()
		if err != nil || !time.Now().Before(end) { // it has ended, or may have
			return
		}
	}
}

// renew renews the lease once.
func (l *lease) renew(ctx context.Context, c *clientv3.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(l.id)}); err != nil {
		return err
	}
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if r.TTL <= 0 {
		return rpctypes.ErrLeaseNotFound
	}
	return nil
}

func (l *lease) lose() { l.once.Do(func() { close(l.lost) }) }

// Put writes a key that goes away with the lease.
func (l *lease) Put(key string, value []byte) state.Op {
	return state.Op{Key: key, Does: state.DoesPut, Value: value, Lease: state.LeaseID(l.id)}
}

// Lost is closed when the lease has ended.
func (l *lease) Lost() <-chan struct{} { return l.lost }

// Close revokes the lease.
func (l *lease) Close() error {
	l.stop()
	l.lose()
	ctx, cancel := context.WithTimeout(l.store.ctx, attemptMax) // it runs out anyway
	defer cancel()
	err := l.store.read(ctx, "state.Lease", func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, l.id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil
		}
		return err
	})
	return fault.Wrap("state.Lease", err)
}
