// Package etcdtest runs etcd servers for tests, on loopback addresses of their own.
package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
)

// Address returns a loopback address that no other test is likely to use.
func Address() string {
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
}

// Server is an etcd server in the test's process.
type Server struct {
	*member.Server
	Options member.Options
	T       testing.TB
}

// Start starts a server that is a cluster of its own, in the clear, and stops it when the
// test ends.
func Start(t testing.TB) *Server {
	address := Address()
	s := &Server{T: t, Options: member.Options{Dir: t.TempDir(), Name: address, Token: address, Volatile: true,
		PeerURL: member.URL(false, address, 2380), ClientURL: member.URL(false, address, 2379)}}
	t.Cleanup(func() { s.Close() })
	s.Restart()
	return s
}

// Restart starts the server again after Close.
func (s *Server) Restart() {
	s.T.Helper()
	started, err := member.Start(context.Background(), s.Options)
	if err != nil {
		s.T.Fatal(err)
	}
	s.Server = started
}

// Client returns a client of the server.
func (s *Server) Client() *clientv3.Client {
	s.T.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Options.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { _ = c.Close() })
	return c
}

// Compact makes the server forget its history.
func (s *Server) Compact() {
	s.T.Helper()
	ctx := context.Background()
	c := s.Client()
	r, err := c.Get(ctx, "x")
	if err == nil {
		_, err = c.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		s.T.Fatal(err)
	}
}

// Expire ends all leases.
func (s *Server) Expire() {
	s.T.Helper()
	ctx := context.Background()
	c := s.Client()
	r, err := c.Leases(ctx)
	if err != nil {
		s.T.Fatal(err)
	}
	for _, l := range r.Leases {
		if _, err := c.Revoke(ctx, l.ID); err != nil {
			s.T.Fatal(err)
		}
	}
}
