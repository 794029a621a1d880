package server

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	c1 "github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
)

// Identity is whom the server takes a caller for. The zero value is nobody.
type Identity struct {
	Role    v1.Role
	Subject string
	Method  string // socket, certificate or token
	NodeID  string // of a node
}

type (
	localKey    struct{} // of the identity that a listener gives all its callers
	nodeKey     struct{} // of the id of the node whose certificate a connection has
	identityKey struct{}
)

// who returns the caller.
func who(ctx context.Context) Identity {
	id, _ := ctx.Value(identityKey{}).(Identity)
	return id
}

// nobody is the role that Join needs: its token decides.
const nobody = v1.Role_ROLE_UNSPECIFIED

// needs says, for every call, the least role that may make it. Nodes may do what users
// may, and what asks for ROLE_NODE, as administrators may too.
var needs = map[string]v1.Role{
	c1.ClusterServiceGetClusterProcedure:       v1.Role_ROLE_VIEWER,
	c1.ClusterServiceGetStatusProcedure:        v1.Role_ROLE_VIEWER,
	c1.ClusterServiceWhoAmIProcedure:           v1.Role_ROLE_VIEWER,
	c1.ClusterServiceUpdateSettingsProcedure:   v1.Role_ROLE_ADMIN,
	c1.ClusterServiceJoinProcedure:             nobody,
	c1.ClusterServiceRenewCertificateProcedure: v1.Role_ROLE_NODE,
	c1.ClusterServiceCreateTokenProcedure:      v1.Role_ROLE_ADMIN,
	c1.ClusterServiceListTokensProcedure:       v1.Role_ROLE_ADMIN,
	c1.ClusterServiceRevokeTokenProcedure:      v1.Role_ROLE_ADMIN,

	c1.NodeServiceGetNodeProcedure:        v1.Role_ROLE_VIEWER,
	c1.NodeServiceListNodesProcedure:      v1.Role_ROLE_VIEWER,
	c1.NodeServiceWatchNodesProcedure:     v1.Role_ROLE_VIEWER,
	c1.NodeServiceUpdateNodeProcedure:     v1.Role_ROLE_ADMIN,
	c1.NodeServiceCordonNodeProcedure:     v1.Role_ROLE_ADMIN,
	c1.NodeServiceDrainNodeProcedure:      v1.Role_ROLE_ADMIN,
	c1.NodeServiceSetMaintenanceProcedure: v1.Role_ROLE_ADMIN,
	c1.NodeServiceRemoveNodeProcedure:     v1.Role_ROLE_ADMIN,

	c1.PoolServiceGetPoolProcedure:      v1.Role_ROLE_VIEWER,
	c1.PoolServiceListPoolsProcedure:    v1.Role_ROLE_VIEWER,
	c1.PoolServiceWatchPoolsProcedure:   v1.Role_ROLE_VIEWER,
	c1.PoolServiceRegisterPoolProcedure: v1.Role_ROLE_NODE,
	c1.PoolServiceUpdatePoolProcedure:   v1.Role_ROLE_ADMIN,
	c1.PoolServiceDrainPoolProcedure:    v1.Role_ROLE_ADMIN,
	c1.PoolServiceRemovePoolProcedure:   v1.Role_ROLE_ADMIN,
	c1.PoolServiceRebalanceProcedure:    v1.Role_ROLE_ADMIN,

	c1.VolumeServiceCreateVolumeProcedure:   v1.Role_ROLE_USER,
	c1.VolumeServiceGetVolumeProcedure:      v1.Role_ROLE_VIEWER,
	c1.VolumeServiceListVolumesProcedure:    v1.Role_ROLE_VIEWER,
	c1.VolumeServiceWatchVolumesProcedure:   v1.Role_ROLE_VIEWER,
	c1.VolumeServiceUpdateVolumeProcedure:   v1.Role_ROLE_USER,
	c1.VolumeServiceDeleteVolumeProcedure:   v1.Role_ROLE_USER,
	c1.VolumeServiceRestoreVolumeProcedure:  v1.Role_ROLE_USER,
	c1.VolumeServicePurgeVolumeProcedure:    v1.Role_ROLE_USER,
	c1.VolumeServiceMoveReplicaProcedure:    v1.Role_ROLE_ADMIN,
	c1.VolumeServiceAcceptDataLossProcedure: v1.Role_ROLE_ADMIN,
	c1.VolumeServiceGetVolumeUsageProcedure: v1.Role_ROLE_VIEWER,
	c1.VolumeServiceGetVolumeStatsProcedure: v1.Role_ROLE_VIEWER,

	c1.AttachmentServiceAttachProcedure:           v1.Role_ROLE_USER,
	c1.AttachmentServiceDetachProcedure:           v1.Role_ROLE_USER,
	c1.AttachmentServiceMountProcedure:            v1.Role_ROLE_USER,
	c1.AttachmentServiceUnmountProcedure:          v1.Role_ROLE_USER,
	c1.AttachmentServiceAbortProcedure:            v1.Role_ROLE_USER,
	c1.AttachmentServiceGetAttachmentProcedure:    v1.Role_ROLE_VIEWER,
	c1.AttachmentServiceListAttachmentsProcedure:  v1.Role_ROLE_VIEWER,
	c1.AttachmentServiceWatchAttachmentsProcedure: v1.Role_ROLE_VIEWER,

	c1.SnapshotServiceCreateSnapshotProcedure:      v1.Role_ROLE_USER,
	c1.SnapshotServiceCreateGroupSnapshotProcedure: v1.Role_ROLE_USER,
	c1.SnapshotServiceGetSnapshotProcedure:         v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceListSnapshotsProcedure:       v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceGetSnapshotTreeProcedure:     v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceWatchSnapshotsProcedure:      v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceUpdateSnapshotProcedure:      v1.Role_ROLE_USER,
	c1.SnapshotServiceDeleteSnapshotProcedure:      v1.Role_ROLE_USER,
	c1.SnapshotServiceCloneSnapshotProcedure:       v1.Role_ROLE_USER,
	c1.SnapshotServiceRestoreSnapshotProcedure:     v1.Role_ROLE_USER,
	c1.SnapshotServiceListChangedBlocksProcedure:   v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceCreatePolicyProcedure:        v1.Role_ROLE_ADMIN,
	c1.SnapshotServiceGetPolicyProcedure:           v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceListPoliciesProcedure:        v1.Role_ROLE_VIEWER,
	c1.SnapshotServiceUpdatePolicyProcedure:        v1.Role_ROLE_ADMIN,
	c1.SnapshotServiceDeletePolicyProcedure:        v1.Role_ROLE_ADMIN,

	c1.OperationServiceGetOperationProcedure:    v1.Role_ROLE_VIEWER,
	c1.OperationServiceListOperationsProcedure:  v1.Role_ROLE_VIEWER,
	c1.OperationServiceWatchOperationsProcedure: v1.Role_ROLE_VIEWER,
	c1.OperationServiceWaitOperationProcedure:   v1.Role_ROLE_VIEWER,
	c1.OperationServiceCancelOperationProcedure: v1.Role_ROLE_ADMIN,
	c1.EventServiceListEventsProcedure:          v1.Role_ROLE_VIEWER,
	c1.EventServiceWatchEventsProcedure:         v1.Role_ROLE_VIEWER,
}

// may reports whether somebody in a role may do what needs another.
func may(role, need v1.Role) bool {
	if role == v1.Role_ROLE_NODE {
		return need != v1.Role_ROLE_ADMIN
	}
	if need == v1.Role_ROLE_NODE {
		need = v1.Role_ROLE_ADMIN
	}
	return role >= need
}

// admit finds out who calls, and whether they may.
func (s *Server) admit(ctx context.Context, procedure string, header http.Header) (Identity, error) {
	need, known := needs[procedure]
	if !known {
		return Identity{}, fault.Errorf("server", fault.Unsupported, "there is no call %s", procedure)
	}
	id, err := s.identify(ctx, header)
	if need == nobody {
		return id, nil
	}
	if err != nil {
		return Identity{}, rpc.As(connect.CodeUnauthenticated, fault.Denied, err)
	}
	if !may(id.Role, need) {
		return Identity{}, fault.WithCure(fault.Errorf("server", fault.Denied, "%s has the role %s, and this needs %s", id.Subject, roleName(id.Role), roleName(need)),
			"use a token with that role, or the socket on a node's own machine as root")
	}
	return id, nil
}

// identify finds out who calls: by the listener, a certificate, or a token.
func (s *Server) identify(ctx context.Context, header http.Header) (Identity, error) {
	if id, ok := ctx.Value(localKey{}).(Identity); ok {
		return id, nil
	}
	token, bearer := strings.CutPrefix(header.Get("Authorization"), "Bearer ")
	if bearer && s.options.Trust != nil {
		id, err := s.options.Trust.Bearer(ctx, strings.TrimSpace(token))
		id.Method = "token"
		if err != nil {
			return id, fault.WithCure(fault.Errorf("server", fault.Denied, "the token is not accepted: %w", err), "ask for a new one: holdfast token create")
		}
		return id, nil
	}
	if node, ok := ctx.Value(nodeKey{}).(string); ok {
		if n := value(s.view.nodes, node); n == nil || n.GetSpec().GetRemoved() {
			return Identity{}, fault.WithCure(fault.Errorf("server", fault.Denied, "node %s is not in this cluster, or not any more", node),
				"on its machine, put trust and etcd in its data directory aside, and start it with --join and a new token (holdfast token create)")
		}
		return Identity{Role: v1.Role_ROLE_NODE, Subject: "node " + s.view.nodeName(node), Method: "certificate", NodeID: node}, nil
	}
	return Identity{}, fault.WithCure(fault.Errorf("server", fault.Denied, "nobody says who asks"),
		"give a token with --token or HOLDFAST_TOKEN, or use the socket on a node's own machine as root")
}

func roleName(r v1.Role) string { return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_")) }

func stack() string { return string(debug.Stack()) }
