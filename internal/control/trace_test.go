package control

import (
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

func TestPassesThatDoSomethingAreTraced(t *testing.T) {
	s := newStage(t, 3)
	spans := tracetest.NewSpanRecorder()
	s.l.traces = newTracer(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)))
	s.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 2})
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	var pass, placed sdk.ReadOnlySpan
	for _, x := range spans.Ended() {
		if x.Name() == "control.pass" {
			pass = x
		}
		for _, a := range x.Attributes() {
			if a.Key == "reason" && a.Value.AsString() == "Placed" {
				placed = x
			}
		}
	}
	if pass == nil || placed == nil || placed.Name() != "control.volume" || placed.Parent().SpanID() != pass.SpanContext().SpanID() {
		t.Fatalf("%v, %v", pass, placed)
	}
	s.rest()
	was := len(spans.Ended())
	if err := s.turn(s.l); err != nil {
		t.Fatal(err)
	}
	if now := len(spans.Ended()); now != was {
		t.Errorf("a pass that had nothing to do made %d spans", now-was)
	}
}

func TestACommitThatIsRefusedIsTracedAsAFailure(t *testing.T) {
	s := memory.New()
	defer s.Close()
	r := newRig(t, s, 1)
	spans := tracetest.NewSpanRecorder()
	l := r.leader(s)
	l.traces = newTracer(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)))
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.traces.begin()
	if err := l.commit(t.Context(), "liveness", step{ops: []state.Op{state.Require("/holdfast/nothing", 7)}}); err != nil {
		t.Fatal(err) // it will look again
	}
	l.traces.end()
	list := spans.Ended()
	if len(list) != 2 || list[0].Name() != "control.liveness" || list[0].Status().Code != codes.Error || list[1].Name() != "control.pass" {
		t.Errorf("%v", list)
	}
}
