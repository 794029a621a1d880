package server

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// requestIDHeader carries a call's id, for logs on both sides: the caller's, or one that
// the server draws.
const requestIDHeader = "X-Request-Id"

// callMax bounds calls for which the caller sets no deadline.
const callMax = 15 * time.Minute

// interceptor stands before every call: who asks, may they, how long did it take, what is
// said of what went wrong.
type interceptor struct{ s *Server }

// WrapUnary stands before calls with one answer.
func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (answer connect.AnyResponse, err error) {
		c := i.begin(r.Spec(), r.Header(), r.Peer())
		defer func() { c.end(err) }()
		ctx, span := c.trace(ctx)
		defer func() { c.traced(span, err) }()
		ctx, cancel := context.WithTimeout(ctx, callMax)
		defer cancel()
		if ctx, err = c.admit(ctx); err == nil {
			answer, err = next(ctx, r)
		}
		if err != nil {
			return nil, c.fail(err)
		}
		answer.Header().Set(requestIDHeader, c.id)
		return answer, nil
	}
}

// WrapStreamingHandler stands before watches.
func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		c := i.begin(conn.Spec(), conn.RequestHeader(), conn.Peer())
		defer func() { c.end(err) }()
		conn.ResponseHeader().Set(requestIDHeader, c.id)
		if ctx, err = c.admit(ctx); err == nil {
			err = next(ctx, conn)
		}
		if err != nil {
			return c.fail(err)
		}
		return nil
	}
}

// WrapStreamingClient is not for servers.
func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// call is one call, from its beginning to its end.
type call struct {
	s         *Server
	id        string
	procedure string
	stream    bool
	reads     bool
	header    http.Header
	peer      string
	who       Identity
	began     time.Time
}

func (i *interceptor) begin(spec connect.Spec, header http.Header, peer connect.Peer) *call {
	c := &call{s: i.s, id: header.Get(requestIDHeader), procedure: spec.Procedure, header: header, peer: peer.Addr, began: i.s.now()}
	c.stream = spec.StreamType != connect.StreamTypeUnary
	c.reads = c.stream || spec.IdempotencyLevel == connect.IdempotencyNoSideEffects
	if c.id == "" || len(c.id) > 128 || strings.ContainsFunc(c.id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.id = rand.Text()[:16]
	}
	i.s.metrics.begun(c.procedure)
	return c
}

func (c *call) admit(ctx context.Context) (context.Context, error) {
	id, err := c.s.admit(ctx, c.procedure, c.header)
	if err != nil {
		return ctx, err
	}
	c.who = id
	if err := c.s.view.ready(ctx); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, identityKey{}, id), nil
}

// trace begins the span of a call, below the caller's if it says so.
func (c *call) trace(ctx context.Context) (context.Context, trace.Span) {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(c.header))
	return c.s.tracer.Start(ctx, protoName(c.procedure), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("request", c.id)))
}

// traced ends the span of a call.
func (c *call) traced(span trace.Span, err error) {
	span.SetAttributes(attribute.String("who", c.who.Subject))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// fail makes what is answered of an error, with the call's id.
func (c *call) fail(err error) error {
	answer := rpc.Error(explain(err))
	if e := new(connect.Error); errors.As(answer, &e) {
		e.Meta().Set(requestIDHeader, c.id)
	}
	return answer
}

// end writes the log and counts. What only looks is logged when debugging.
func (c *call) end(err error) {
	took := c.s.now().Sub(c.began)
	code := "ok"
	if err != nil {
		code = connect.CodeOf(err).String()
	}
	c.s.metrics.ended(c.procedure, code, took, c.stream)
	level := slog.LevelInfo
	switch connect.CodeOf(err) {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss:
		if err != nil {
			level = slog.LevelError
		}
	default:
		if c.reads {
			level = slog.LevelDebug
		}
	}
	if err == nil && c.reads {
		level = slog.LevelDebug
	}
	c.s.log.LogAttrs(context.Background(), level, "call", slog.String("call", protoName(c.procedure)), slog.String("request", c.id),
		slog.String("who", c.who.Subject), slog.String("from", c.peer), slog.String("code", code), slog.Duration("took", took), obs.Err(err))
}

// protoName is a procedure without the package: VolumeService/CreateVolume.
func protoName(procedure string) string {
	return strings.TrimPrefix(procedure, "/holdfast.v1.")
}

// explain says what an error of the store means for who asked.
func explain(err error) error {
	if fault.Is(err, fault.Busy) && errors.Is(err, errTooBusy) {
		return fault.WithCure(err, "try again")
	}
	return err
}

// unreachable is the error of calls that need the state while it can't be reached.
func unreachable(err error) error {
	return fault.WithCure(fault.Errorf("server", fault.Unavailable, "the cluster's state can't be reached, so nothing can be changed now; attached volumes go on: %w", err),
		"see how the metadata members do: holdfast status")
}
