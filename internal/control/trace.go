package control

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracer makes traces of what the leader does: a span for each pass that did something, and
// below it one for each commit. Passes that found nothing to do leave none.
type tracer struct {
	tracer trace.Tracer
	began  time.Time
	pass   trace.Span // nil: the pass has done nothing yet
}

func newTracer(p trace.TracerProvider) tracer {
	if p == nil {
		p = noop.NewTracerProvider()
	}
	return tracer{tracer: p.Tracer("holdfast/control")}
}

// begin notes that a pass begins.
func (t *tracer) begin() { t.began, t.pass = time.Now(), nil }

// end ends the pass's span, if there is one.
func (t *tracer) end() {
	if t.pass != nil {
		t.pass.End()
	}
}

// commit begins the span of a step, and returns what is to be called with how it went; only
// the first call counts.
func (t *tracer) commit(ctx context.Context, reconciler string, s step) (context.Context, func(error)) {
	if t.tracer == nil {
		return ctx, func(error) {}
	}
	if t.pass == nil {
		_, t.pass = t.tracer.Start(ctx, "control.pass", trace.WithTimestamp(t.began))
	}
	about := []attribute.KeyValue{attribute.Int("ops", len(s.ops)), attribute.String("key", s.ops[0].Key)}
	if e := s.event; e != nil {
		about = append(about, attribute.String("object", e.Object), attribute.String("name", e.ObjectName), attribute.String("reason", e.Reason), attribute.String("message", e.Message))
	}
	ctx, span := t.tracer.Start(trace.ContextWithSpan(ctx, t.pass), "control."+reconciler, trace.WithAttributes(about...))
	return ctx, func(err error) {
		if err != nil && span.IsRecording() {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
