package server_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

func TestCallsAreTracedBelowTheirCaller(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	c := servertest.Start(t, servertest.Options{Traces: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))})
	c.Stage.Nodes(1)
	q, err := http.NewRequest("POST", "http://holdfast/holdfast.v1.VolumeService/CreateVolume", strings.NewReader(`{"name":"db","spec":{"sizeBytes":1073741824}}`))
	c.Must(err)
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	r, err := c.Transport().Do(q)
	c.Must(err)
	_ = read(t, r)
	var names []string
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() == "0af7651916cd43dd8448eb211c80319c" {
			names = append(names, s.Name())
		}
	}
	if !slices.Equal(names, []string{"state.Commit", "VolumeService/CreateVolume"}) {
		t.Errorf("traced %q", names)
	}
}
