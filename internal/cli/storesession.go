package cli

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// session is an open replica.
type session struct {
	*place
	r *store.Replica
}

// withReplica opens a replica, calls use, and closes it.
func withReplica(ctx context.Context, replica string, use func(*session) error) error {
	p, err := openPlace(ctx, replica, works)
	if err != nil {
		return err
	}
	err = p.openReplica(use)
	return first(err, p.close())
}

func (p *place) openReplica(use func(*session) error) error {
	if is, err := p.look(p.name); err != nil {
		return err
	} else if is != aReplica {
		return noReplica(p.dir(), is)
	}
	s := &session{place: p}
	err := await(p.disk, func(done func(error)) {
		store.Open(p.disk, p.name, p.options(), func(r *store.Replica, err error) {
			s.r = r
			done(err)
		})
	})
	if fault.Is(err, fault.Busy) {
		return fault.WithCure(fault.Errorf("open", fault.Busy, "%s is open in another process", p.dir()), "stop it first")
	}
	if err != nil {
		return p.advise(err)
	}
	err = use(s)
	return p.advise(first(err, await(p.disk, s.r.Close)))
}

// withInspection opens a replica to be looked at, calls look, and closes it.
func withInspection(ctx context.Context, replica string, look func(*place, *store.Inspection) error) error {
	p, err := openPlace(ctx, replica, looks)
	if err != nil {
		return err
	}
	err = p.inspect(look)
	return first(err, p.close())
}

func (p *place) inspect(look func(*place, *store.Inspection) error) error {
	if is, err := p.look(p.name); err != nil {
		return err
	} else if is != aReplica {
		return noReplica(p.dir(), is)
	}
	var i *store.Inspection
	err := await(p.disk, func(done func(error)) {
		store.Inspect(p.disk, p.name, p.options(), func(got *store.Inspection, err error) {
			i = got
			done(err)
		})
	})
	if err != nil {
		return err
	}
	err = look(p, i)
	return first(err, await(p.disk, func(done func(error)) { i.Close(func() { done(nil) }) }))
}

// advise adds to what the store says of damage where to go on.
func (p *place) advise(err error) error {
	if !fault.Is(err, fault.Corrupt) {
		return err
	}
	if _, cure := fault.Describe(err); cure != "" {
		return err
	}
	verb := "check"
	var bad *store.BadBlock
	if errors.As(err, &bad) && bad.What == "data" {
		verb = "scrub"
	}
	return fault.WithCure(err, "see what else is damaged: holdfast store "+verb+" "+quoted(p.dir()))
}

func noReplica(dir string, is contents) error {
	if is != nothing {
		return fault.Errorf("place", fault.NotFound, "%s is not a replica: there is no replica.json in it", dir)
	}
	return fault.WithCure(fault.Errorf("place", fault.NotFound, "there is no replica at %s", dir),
		"make one: holdfast store create "+quoted(dir)+" --size 1Gi")
}

// await calls f and drives disk until f has called done.
func await(disk host.Disk, f func(done func(error))) (err error) {
	finished := false
	f(func(e error) { finished, err = true, e })
	for !finished {
		if err := poll(disk, -1); err != nil && !finished {
			return err
		}
	}
	return err
}

// poll lets the disk go on, and waits at most for wait. It is our mistake to wait for ever
// when nothing is in flight.
func poll(disk host.Disk, wait time.Duration) error {
	if disk.Poll(wait) == 0 && wait < 0 && disk.InFlight() == 0 {
		return fault.Errorf("poll", fault.Internal, "the replica waits, and no disk operation is in flight")
	}
	return nil
}

// first returns the first error that there is.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// same reports whether two names mean one directory.
func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// quoted makes one word of a path for a shell, so that commands in messages can be pasted.
func quoted(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$&|;<>()*?[]{}!#~`") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
