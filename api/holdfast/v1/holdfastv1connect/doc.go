// Package holdfastv1connect has the clients and handlers of the services of package
// holdfastv1, for the gRPC, gRPC-Web and Connect protocols.
package holdfastv1connect
