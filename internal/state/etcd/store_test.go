package etcd_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/state/etcd/etcdtest"
	"github.com/holdfast-io/holdfast/internal/state/statetest"
)

func open(t testing.TB, o etcd.Options) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConforms(t *testing.T) {
	server := etcdtest.Start(t)
	var n atomic.Int64
	statetest.Conform(t, func(t *testing.T) *statetest.Bench {
		o := etcd.Options{Endpoints: []string{server.Options.ClientURL}, Prefix: fmt.Sprint("/", n.Add(1))}
		return &statetest.Bench{Store: open(t, o), Compact: server.Compact, Expire: server.Expire,
			Again: func() state.Store { return open(t, o) }}
	})
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

func commit(t *testing.T, s state.Store, ops ...state.Op) state.Revision {
	t.Helper()
	rev, err := s.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// TestAWatchOutlivesTheServer restarts the server under a watch, a lease and a store that
// was opened while there was none.
func TestAWatchOutlivesTheServer(t *testing.T) {
	server := etcdtest.Start(t)
	nobody := "http://" + etcdtest.Address() + ":2379"
	o := etcd.Options{Endpoints: []string{server.Options.ClientURL, nobody}, Prefer: nobody}
	s := open(t, o)
	w := s.Watch(t.Context(), "/", commit(t, s, state.Put("/a", []byte("1"))))
	lease, err := s.Lease(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, lease.Put("/b", nil))
	if b := await(t, w, "the first event"); b.Events[0].Key != "/b" {
		t.Fatalf("%+v", b)
	}
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "/a"); !fault.Is(err, fault.Timeout) {
		t.Errorf("Get without a server, in a hurry: %v", err)
	}
	if _, err := s.Commit(t.Context(), state.Put("/a", nil)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Commit without a server: %v", err)
	}
	late := open(t, o)
	server.Restart()
	commit(t, late, state.Put("/a", []byte("2")))
	for {
		b := await(t, w, "the event after the restart")
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if e := b.Events[len(b.Events)-1]; e.Key == "/a" && string(e.Value) == "2" {
			break
		}
	}
	select {
	case <-lease.Lost():
		t.Error("a lease of a minute was lost")
	default:
	}
	if err := lease.Close(); err != nil {
		t.Error(err)
	}
}

// TestAWatchEndsWhenAnotherClusterAnswers puts a new cluster in the place of the old one,
// as a restore does.
func TestAWatchEndsWhenAnotherClusterAnswers(t *testing.T) {
	server := etcdtest.Start(t)
	s := open(t, etcd.Options{Endpoints: []string{server.Options.ClientURL}})
	for range 10 {
		commit(t, s, state.Put("/a", nil))
	}
	_, rev, err := s.List(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), "/", rev)
	server.Close()
	server.Options.Dir, server.Options.Token = t.TempDir(), "another"
	server.Restart()
	if b := await(t, w, "the end of the watch"); !fault.Is(b.Err, fault.Precondition) {
		t.Fatalf("%+v", b)
	}
	if _, now, err := s.List(t.Context(), "/"); err != nil || now >= rev {
		t.Errorf("revision %d after %d, %v", now, rev, err)
	}
}

// TestAnEtcdWithUsersWantsToKnowWho uses an etcd in which nobody may do anything without a
// password.
func TestAnEtcdWithUsersWantsToKnowWho(t *testing.T) {
	server, ctx := etcdtest.Start(t), t.Context()
	admin := server.Client()
	for _, do := range []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.UserAdd(ctx, "guest", "guest"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	o := etcd.Options{Endpoints: []string{server.Options.ClientURL}, Username: "root", Password: "secret"}
	s := open(t, o)
	w := s.Watch(ctx, "/", commit(t, s, state.Put("/a", nil)))
	lease, err := s.Lease(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, lease.Put("/b", nil))
	if b := await(t, w, "an event"); b.Err != nil {
		t.Fatal(b.Err)
	}
	if err := lease.Close(); err != nil {
		t.Error(err)
	}
	o.Password = "wrong"
	if _, err := open(t, o).Get(ctx, "/a"); !fault.Is(err, fault.Denied) {
		t.Errorf("a wrong password: %v", err)
	}
	o.Username, o.Password = "guest", "guest"
	if _, err := open(t, o).Commit(ctx, state.Put("/a", nil)); !fault.Is(err, fault.Denied) {
		t.Errorf("somebody without rights: %v", err)
	}
}
