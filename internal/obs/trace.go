package obs

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// EnvTraces is the environment variable that says where traces are sent, by OTLP over
// gRPC. The exporter reads it, and the others of OpenTelemetry, by itself.
const EnvTraces = "OTEL_EXPORTER_OTLP_ENDPOINT"

// Traces returns what makes traces of control operations, and what to call in the end, so
// that the last are sent. When the environment names no collector nothing is traced, and
// that costs nothing.
func Traces(ctx context.Context, getenv func(string) string, node, version string) (trace.TracerProvider, func(context.Context) error, error) {
	if getenv(EnvTraces) == "" {
		return noop.NewTracerProvider(), func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, nil, fault.WithCure(fault.Errorf("obs.Traces", fault.Invalid, "%s: %w", EnvTraces, err), "write it as http://collector:4317, or leave it out")
	}
	about := resource.NewSchemaless(semconv.ServiceName("holdfast"), semconv.ServiceVersion(version), semconv.ServiceInstanceID(node))
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return provider, provider.Shutdown, nil
}
