package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// How long to wait before trying members again that have all failed.
const (
	againLeast = 50 * time.Millisecond
	againMost  = 2 * time.Second
)

// use returns the session with the present member, which may not have answered yet. When
// all members have failed it waits a little first.
func (s *Store) use(ctx context.Context) (*session, error) {
	s.mu.Lock()
	wait := time.Duration(0)
	if rounds := s.failures / len(s.endpoints); s.current == nil && rounds > 0 {
		wait = min(againLeast<<min(rounds, 10), againMost)
	}
	s.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	if s.current != nil {
		return s.current, nil
	}
	client, err := clientv3.New(s.config(s.endpoints[s.at]))
	if err != nil { // it could not log in
		s.at = (s.at + 1) % len(s.endpoints)
		s.failures++
		return nil, err
	}
	s.current = &session{client: client, endpoint: s.endpoints[s.at], over: make(chan struct{})}
	go s.attend(s.current)
	return s.current, nil
}

// attend leaves the member when the connection to it breaks.
func (s *Store) attend(x *session) {
	conn := x.client.ActiveConnection()
	for {
		now := conn.GetState()
		if now == connectivity.TransientFailure || now == connectivity.Shutdown {
			s.leave(x)
			return
		}
		if !conn.WaitForStateChange(x.client.Ctx(), now) {
			return
		}
	}
}

// leave turns to the next member, unless that has been done.
func (s *Store) leave(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != x {
		return
	}
	s.drop(x)
	s.at = (s.at + 1) % len(s.endpoints)
	s.failures++
}

// drop ends the use of a member.
func (s *Store) drop(x *session) {
	s.current = nil
	close(x.over)
	time.AfterFunc(graceAfter, func() { _ = x.client.Close() }) // nothing is lost with it
}

// answered says that the member is there.
func (s *Store) answered(x *session) {
	s.mu.Lock()
	s.failures = 0
	s.mu.Unlock()
	x.mu.Lock()
	x.proven = time.Now()
	x.mu.Unlock()
}

func (x *session) isProven() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return time.Since(x.proven) < provenFor
}

// Ask does a call of etcd's own that may be done twice, by one member after the other
// until one answers.
func (s *Store) Ask(ctx context.Context, op string, f func(context.Context, *clientv3.Client) error) error {
	return s.read(ctx, op, f)
}

// Tell does a call of etcd's own that must not be done twice. After fault.Unavailable
// nobody knows whether it was done.
func (s *Store) Tell(ctx context.Context, op string, f func(context.Context, *clientv3.Client) error) error {
	return s.once(ctx, op, f)
}

// call is something asked of a member.
type call func(ctx context.Context, c *clientv3.Client) error

// read does a call that may be done twice: by one member after the other until one answers.
func (s *Store) read(ctx context.Context, op string, f call) error {
	ctx, cancel := bounded(ctx, callMax)
	defer cancel()
	var last error
	for {
		x, err := s.use(ctx)
		if err == nil {
			if err = s.try(ctx, x, f); err == nil {
				return nil
			}
		}
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), errNoAnswer) && last != nil {
			return last // the attempt before this one says more
		}
		err = s.explain(ctx, op, err)
		if !fault.Is(err, fault.Unavailable) || ctx.Err() != nil || s.ctx.Err() != nil {
			return err
		}
		last = err
	}
}

// try asks one member, and leaves it if it does not answer.
func (s *Store) try(ctx context.Context, x *session, f call) error {
	attempt, cancel := context.WithTimeout(ctx, attemptMax)
	defer cancel()
	go func() {
		select {
		case <-x.over:
			cancel()
		case <-attempt.Done():
		}
	}()
	err := f(attempt, x.client)
	s.judge(ctx, x, err)
	return err
}

// judge draws conclusions about a member from what it answered.
func (s *Store) judge(ctx context.Context, x *session, err error) {
	switch {
	case !isAbsence(err):
		s.answered(x)
	case ctx.Err() == nil:
		s.leave(x)
	}
}

// once does a call that must not be done twice, by a member that has just answered.
func (s *Store) once(ctx context.Context, op string, f call) error {
	ctx, cancel := bounded(ctx, callMax)
	defer cancel()
	x, err := s.use(ctx)
	if err != nil || !x.isProven() {
		ask := func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Get(ctx, s.key(state.Root), clientv3.WithKeysOnly())
			return err
		}
		if err := s.read(ctx, op, ask); err != nil {
			return err
		}
		if x, err = s.use(ctx); err != nil {
			return s.explain(ctx, op, err)
		}
	}
	attempt, stop := context.WithTimeout(ctx, commitMax)
	defer stop()
	err = f(attempt, x.client)
	s.judge(ctx, x, err)
	return s.explain(ctx, op, err)
}

// bounded gives ctx an end if it has none.
func bounded(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if _, ends := ctx.Deadline(); ends {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, most, errNoAnswer)
}

var errNoAnswer = errors.New("no member answers")

// isAbsence reports whether err means that a member can't serve, rather than an answer.
func isAbsence(err error) bool {
	if err == nil {
		return false
	}
	switch codeOf(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal:
		return true
	}
	return errors.Is(err, errClosed)
}

// codeOf returns the code of an error of etcd's client or of grpc.
func codeOf(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// explain gives what etcd says a kind.
func (s *Store) explain(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	kind := fault.Unknown
	switch {
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNoAnswer):
		return state.Ended(op, ctx)
	case errors.Is(err, rpctypes.ErrCompacted):
		kind = fault.Precondition
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		kind = fault.Busy
	case errors.Is(err, rpctypes.ErrAuthFailed):
		kind = fault.Denied
	case errors.Is(err, rpctypes.ErrNoSpace):
		err = fault.WithCure(err, "the database of etcd is full: see holdfast metadata status")
		kind = fault.NoSpace
	case isAbsence(err):
		kind = fault.Unavailable
		err = fault.WithCure(err, "the cluster's metadata store can't be reached: see holdfast metadata status")
	default:
		kind = kinds[codeOf(err)]
	}
	return fault.E(op, kind, block.VolumeID{}, err)
}

var kinds = map[codes.Code]fault.Kind{
	codes.InvalidArgument:    fault.Invalid,
	codes.PermissionDenied:   fault.Denied,
	codes.Unauthenticated:    fault.Denied,
	codes.ResourceExhausted:  fault.NoSpace,
	codes.FailedPrecondition: fault.Precondition,
	codes.NotFound:           fault.NotFound,
	codes.DataLoss:           fault.Corrupt,
	codes.OutOfRange:         fault.Precondition,
}

// headed is an answer that says which cluster it is from.
type headed interface {
	GetHeader() *header
}

// observers have every answer looked at.
func (s *Store) observers() []grpc.DialOption {
	unary := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if err == nil {
			s.observe(reply)
		}
		return err
	}
	stream := func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		c, err := open(ctx, d, cc, method, opts...)
		return &observed{ClientStream: c, store: s}, err
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

// observed is a stream whose answers are looked at.
type observed struct {
	grpc.ClientStream
	store *Store
}

// RecvMsg receives an answer.
func (o *observed) RecvMsg(m any) error {
	err := o.ClientStream.RecvMsg(m)
	if err == nil {
		o.store.observe(m)
	}
	return err
}

// observe notices when another cluster answers than before.
func (s *Store) observe(answer any) {
	h, ok := answer.(headed)
	if !ok || h.GetHeader() == nil || h.GetHeader().ClusterId == 0 {
		return
	}
	id := h.GetHeader().ClusterId
	s.identity.Lock()
	defer s.identity.Unlock()
	if s.cluster != 0 && s.cluster != id {
		close(s.other)
		s.other = make(chan struct{})
	}
	s.cluster = id
}

// others returns what is closed when another cluster answers.
func (s *Store) others() <-chan struct{} {
	s.identity.Lock()
	defer s.identity.Unlock()
	return s.other
}
