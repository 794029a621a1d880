// Package rpc translates faults to what the API answers, and back: one table of codes,
// and a detail that carries the kind, the cure and the field, so that nothing is lost on
// the way and nobody reads an error's text to decide.
package rpc

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// codes is the table. Where two kinds share a code, the detail tells them apart.
var codes = map[fault.Kind]connect.Code{
	fault.Unknown:      connect.CodeUnknown,
	fault.Invalid:      connect.CodeInvalidArgument,
	fault.NotFound:     connect.CodeNotFound,
	fault.Exists:       connect.CodeAlreadyExists,
	fault.Precondition: connect.CodeFailedPrecondition,
	fault.Busy:         connect.CodeAborted,
	fault.NoSpace:      connect.CodeResourceExhausted,
	fault.Corrupt:      connect.CodeDataLoss,
	fault.Media:        connect.CodeDataLoss,
	fault.Fenced:       connect.CodeFailedPrecondition,
	fault.Unavailable:  connect.CodeUnavailable,
	fault.Timeout:      connect.CodeDeadlineExceeded,
	fault.Unsupported:  connect.CodeUnimplemented,
	fault.Canceled:     connect.CodeCanceled,
	fault.Denied:       connect.CodePermissionDenied,
	fault.Internal:     connect.CodeInternal,
}

// Code returns what the API answers for a kind.
func Code(kind fault.Kind) connect.Code {
	if code, ok := codes[kind]; ok {
		return code
	}
	return connect.CodeUnknown
}

// Kind returns the kind that a code stands for, when nothing else is known.
func Kind(code connect.Code) fault.Kind {
	if code == connect.CodeUnauthenticated {
		return fault.Denied
	}
	if code == connect.CodeOutOfRange {
		return fault.Invalid
	}
	for kind := fault.Unknown; kind <= fault.Internal; kind++ {
		if codes[kind] == code {
			return kind
		}
	}
	return fault.Unknown
}

// Error makes what the API answers of an error; nil stays nil. An error that is a
// *connect.Error already stays as it is.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if ready := new(connect.Error); errors.As(err, &ready) {
		return ready
	}
	kind := fault.KindOf(err)
	if kind == fault.Unknown {
		kind = ofContext(err)
	}
	return As(Code(kind), kind, err)
}

// As is Error with a code that differs from the table's, such as Unauthenticated.
func As(code connect.Code, kind fault.Kind, err error) *connect.Error {
	what, cure := fault.Describe(err)
	answer := connect.NewError(code, errors.New(what))
	if d, err := connect.NewErrorDetail(&holdfastv1.Fault{Kind: kind.String(), Cure: cure, Field: fault.Field(err)}); err == nil {
		answer.AddDetail(d)
	}
	return answer
}

func ofContext(err error) fault.Kind {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Timeout
	case errors.Is(err, context.Canceled):
		return fault.Canceled
	}
	return fault.Unknown
}

// Fault makes a fault of what a client of the API got, with its cure; nil stays nil.
func Fault(op string, err error) error {
	if err == nil {
		return nil
	}
	answer := new(connect.Error)
	if !errors.As(err, &answer) {
		if kind := fault.KindOf(err); kind != fault.Unknown {
			return fault.E(op, kind, [16]byte{}, err)
		}
		return fault.Errorf(op, ofContext(err), "%w", err)
	}
	kind, cure := Kind(answer.Code()), ""
	if d := Detail(err); d != nil {
		cure = d.Cure
		kind = named(d.Kind, kind)
	}
	what := errors.New(answer.Message())
	if answer.Message() == "" {
		what = errors.New(kind.String())
	}
	f := fault.Errorf(op, kind, "%w", what)
	if cure != "" {
		return fault.WithCure(f, cure)
	}
	return f
}

// Detail returns the Fault that the error of a client of the API carries, or nil.
func Detail(err error) *holdfastv1.Fault {
	answer := new(connect.Error)
	if !errors.As(err, &answer) {
		return nil
	}
	for _, d := range answer.Details() {
		if m, err := d.Value(); err == nil {
			if f, ok := m.(*holdfastv1.Fault); ok {
				return f
			}
		}
	}
	return nil
}

// named returns the kind of a name, or otherwise.
func named(name string, otherwise fault.Kind) fault.Kind {
	for kind := fault.Unknown; kind <= fault.Internal; kind++ {
		if kind.String() == name {
			return kind
		}
	}
	return otherwise
}
