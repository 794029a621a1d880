package member

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/internal/trust"
)

// doorkeeper asks of every request who makes it: a node that was removed from the cluster
// gets nothing, on connections that it made before either.
type doorkeeper struct{ wallet *trust.Wallet }

// options are what a server needs to have it at its door.
func (d doorkeeper) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(d.unary), grpc.ChainStreamInterceptor(d.stream)}
}

func (d doorkeeper) admit(ctx context.Context) error {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil // TLS has let it in without: it wants a certificate of everybody
	}
	if err := d.wallet.Refuse(info.State.PeerCertificates[0]); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

func (d doorkeeper) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := d.admit(ctx); err != nil {
		return nil, err
	}
	return handle(ctx, request)
}

func (d doorkeeper) stream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := d.admit(s.Context()); err != nil {
		return err
	}
	return handle(srv, guarded{s, d})
}

// guarded is a stream whose every message is asked about: watches last for long.
type guarded struct {
	grpc.ServerStream
	d doorkeeper
}

// SendMsg is grpc.ServerStream.SendMsg.
func (g guarded) SendMsg(m any) error {
	if err := g.d.admit(g.Context()); err != nil {
		return err
	}
	return g.ServerStream.SendMsg(m)
}

// RecvMsg is grpc.ServerStream.RecvMsg.
func (g guarded) RecvMsg(m any) error {
	if err := g.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return g.d.admit(g.Context())
}
