package rpc_test

import (
	"context"
	"errors"
	"testing"

	"connectrpc.com/connect"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
)

func TestEveryKindComesBackAsItWent(t *testing.T) {
	for kind := fault.Unknown + 1; kind <= fault.Internal; kind++ {
		sent := fault.WithField(fault.WithCure(fault.Errorf("x.Do", kind, "it broke"), "mend it"), "spec.size_bytes")
		answer := rpc.Error(fault.Wrap("y.Do", sent))
		if rpc.Code(kind) == connect.CodeUnknown || connect.CodeOf(answer) != rpc.Code(kind) {
			t.Errorf("%v is answered as %v", kind, connect.CodeOf(answer))
		}
		if d := rpc.Detail(answer); d.GetField() != "spec.size_bytes" {
			t.Errorf("%v: detail %v", kind, d)
		}
		back := rpc.Fault("cli", answer)
		if _, cure := fault.Describe(back); fault.KindOf(back) != kind || cure != "mend it" {
			t.Errorf("%v came back as %v, cure %q", kind, fault.KindOf(back), cure)
		}
	}
}

func TestCureIsApartFromWhatHappened(t *testing.T) {
	answer := rpc.Error(fault.WithCure(fault.Errorf("x.Do", fault.NoSpace, "the pool is full"), "add a pool"))
	what, cure := fault.Describe(rpc.Fault("cli", answer))
	if what != "the pool is full" || cure != "add a pool" {
		t.Errorf("%q, %q", what, cure)
	}
}

func TestErrorsOfOthersGetAKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fault.Kind
	}{
		{connect.NewError(connect.CodeUnauthenticated, errors.New("who?")), fault.Denied},
		{connect.NewError(connect.CodeOutOfRange, errors.New("x")), fault.Invalid},
		{connect.NewError(connect.CodeUnavailable, nil), fault.Unavailable},
		{context.DeadlineExceeded, fault.Timeout},
		{context.Canceled, fault.Canceled},
		{errors.New("x"), fault.Unknown},
	} {
		if got := fault.KindOf(rpc.Fault("cli", c.err)); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
	if connect.CodeOf(rpc.Error(fault.Wrap("x.Do", context.DeadlineExceeded))) != connect.CodeDeadlineExceeded {
		t.Error("a deadline is not one")
	}
	if rpc.Error(nil) != nil || rpc.Fault("cli", nil) != nil {
		t.Error("nothing is something")
	}
}
