// Package registration is the kubelet's protocol for plugins that register themselves:
// messages, generated, and the service, which has two calls.
package registration

import (
	"context"

	"google.golang.org/grpc"
)

// Server answers the kubelet.
type Server interface {
	// GetInfo says who the plugin is.
	GetInfo(context.Context, *InfoRequest) (*PluginInfo, error)
	// NotifyRegistrationStatus is told whether the kubelet took it.
	NotifyRegistrationStatus(context.Context, *RegistrationStatus) (*RegistrationStatusResponse, error)
}

// Register gives the service to a gRPC server.
func Register(g grpc.ServiceRegistrar, s Server) {
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "pluginregistration.Registration", HandlerType: (*Server)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "GetInfo", Handler: handler(Server.GetInfo)},
			{MethodName: "NotifyRegistrationStatus", Handler: handler(Server.NotifyRegistrationStatus)},
		}}, s)
}

// handler decodes a request, and calls the method.
func handler[Q, A any](call func(Server, context.Context, *Q) (*A, error)) grpc.MethodHandler {
	return func(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		q := new(Q)
		if err := decode(q); err != nil {
			return nil, err
		}
		return call(s.(Server), ctx, q)
	}
}
