package csi

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/internal/csi/claim"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// unary logs failures and gives them their code.
func (d *Driver) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	if err != nil {
		err = answerFor(err)
		d.failed(info.FullMethod, request, err)
		return nil, err
	}
	return answer, nil
}

// stream does the same for calls that answer with a stream.
func (d *Driver) stream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := answerFor(handler(service, s))
	if err != nil {
		d.failed(info.FullMethod, nil, err)
	}
	return err
}

// failed logs a call that failed, without its request: it may hold secrets.
func (d *Driver) failed(method string, request any, err error) {
	volume := ""
	if v, ok := request.(interface{ GetVolumeId() string }); ok {
		volume = v.GetVolumeId()
	}
	d.log.Warn("a CSI call failed", "call", method[strings.LastIndex(method, "/")+1:], "volume", volume, "code", status.Code(err).String(), obs.Err(err))
}

// answerFor makes the answer of an error: what happened, then the cure. Codes of gRPC
// and Connect are the same numbers.
func answerFor(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // only ours, not a wrapped one
		return s.GRPCStatus().Err()
	}
	f := rpc.Fault("csi", err)
	what, cure := fault.Describe(f)
	if cure != "" {
		what += "; " + cure
	}
	return status.Error(codes.Code(rpc.Code(fault.KindOf(f))), what)
}

// is reports whether an answer of the API is of the kind.
func is(err error, kind fault.Kind) bool { return err != nil && fault.Is(rpc.Fault("csi", err), kind) }

// refuse makes an answer with a code that differs from the table's.
func refuse(code codes.Code, format string, args ...any) error {
	return status.Errorf(code, format, args...)
}

// missing is the answer to a request that lacks something.
func missing(what string) error { return refuse(codes.InvalidArgument, "%s is missing", what) }

// wait returns how long the API may take so that the caller still hears the answer.
func wait(ctx context.Context) *durationpb.Duration { return claim.Wait(ctx) }
