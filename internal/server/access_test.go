package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

// everyCall returns all methods of all services.
func everyCall() (calls []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("holdfast.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				calls = append(calls, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	return calls
}

func procedure(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// role is who calls, in the order of the marks in wants.
var callers = []v1.Role{v1.Role_ROLE_UNSPECIFIED, v1.Role_ROLE_VIEWER, v1.Role_ROLE_USER, v1.Role_ROLE_ADMIN}

// adminOnly and userToo are the calls that viewers may not make.
var (
	adminOnly = strings.Fields(`UpdateSettings CreateToken ListTokens RevokeToken UpdateNode CordonNode DrainNode SetMaintenance RemoveNode
		UpdatePool DrainPool RemovePool Rebalance MoveReplica AcceptDataLoss CreatePolicy UpdatePolicy DeletePolicy CancelOperation
		RegisterPool RenewCertificate`)
	userToo = strings.Fields(`CreateVolume UpdateVolume DeleteVolume RestoreVolume PurgeVolume Attach Detach Mount Unmount Abort
		CreateSnapshot CreateGroupSnapshot UpdateSnapshot DeleteSnapshot CloneSnapshot RestoreSnapshot`)
	anybody = []string{"Join"}
)

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// TestEachCallIsForThoseWhoMayMakeIt makes every call as everybody. Requests are empty, so
// who may call is told that they are wrong, or gets an answer.
func TestEachCallIsForThoseWhoMayMakeIt(t *testing.T) {
	c := servertest.Start(t, servertest.Options{})
	tokens := map[v1.Role]string{}
	for _, role := range callers[1:] {
		r, err := c.Client.Cluster.CreateToken(c.Ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_API, Role: role, Subject: "t"})
		c.Must(err)
		tokens[role] = r.Secret
	}
	for _, m := range everyCall() {
		least := v1.Role_ROLE_VIEWER
		switch name := string(m.Name()); {
		case contains(adminOnly, name):
			least = v1.Role_ROLE_ADMIN
		case contains(userToo, name):
			least = v1.Role_ROLE_USER
		case contains(anybody, name):
			least = v1.Role_ROLE_UNSPECIFIED
		}
		for _, role := range callers {
			code := call(t, c, m, tokens[role])
			refused := code == connect.CodePermissionDenied || code == connect.CodeUnauthenticated
			if refused != (role < least) {
				t.Errorf("%s as %s: %v, but it needs %s", m.FullName(), role, code, least)
			}
			if role == 0 && refused && code != connect.CodeUnauthenticated {
				t.Errorf("%s without a token: %v", m.FullName(), code)
			}
		}
	}
}

// call makes a call with an empty request, and returns how it ended; 0 is well. A watch is
// left when it has told the first.
func call(t *testing.T, c *servertest.Cluster, m protoreflect.MethodDescriptor, token string) connect.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(c.Ctx, servertest.Patience)
	defer cancel()
	cl := connect.NewClient[dynamicpb.Message, dynamicpb.Message](http.DefaultClient, c.TCP+procedure(m),
		connect.WithSchema(m), connect.WithResponseInitializer(func(spec connect.Spec, msg any) error {
			*msg.(*dynamicpb.Message) = *dynamicpb.NewMessage(m.Output())
			return nil
		}))
	r := connect.NewRequest(dynamicpb.NewMessage(m.Input()))
	if token != "" {
		r.Header().Set("Authorization", "Bearer "+token)
	}
	var err error
	if m.IsStreamingServer() {
		var stream *connect.ServerStreamForClient[dynamicpb.Message]
		if stream, err = cl.CallServerStream(ctx, r); err == nil {
			if !stream.Receive() {
				err = stream.Err()
			}
			cancel()
			_ = stream.Close() // it was left
		}
	} else {
		_, err = cl.CallUnary(ctx, r)
	}
	if err == nil {
		return 0
	}
	return connect.CodeOf(err)
}

// TestEmptyRequestsAreRefusedByField makes every call that needs something without it: the
// answer names the field and says what to write.
func TestEmptyRequestsAreRefusedByField(t *testing.T) {
	c := servertest.Start(t, servertest.Options{})
	well := map[string]bool{ // what needs nothing, or is done already
		"GetCluster": true, "GetStatus": true, "WhoAmI": true, "Rebalance": true,
	}
	for _, m := range everyCall() {
		name := string(m.Name())
		if m.IsStreamingServer() || strings.HasPrefix(name, "List") && name != "ListChangedBlocks" || well[name] {
			continue
		}
		if name == "RenewCertificate" {
			continue // needs a node, not a field
		}
		err := invoke(c, m)
		d := detail(err)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || d.GetField() == "" || d.GetCure() == "" || d.GetKind() != "invalid" {
			t.Errorf("%s: %v; detail %v", m.FullName(), err, d)
		}
	}
}

func invoke(c *servertest.Cluster, m protoreflect.MethodDescriptor) error {
	cl := connect.NewClient[emptypb.Empty, emptypb.Empty](c.Transport(), "http://holdfast"+procedure(m))
	_, err := cl.CallUnary(c.Ctx, connect.NewRequest(&emptypb.Empty{}))
	return err
}

func TestWhoOneIs(t *testing.T) {
	c := servertest.Start(t, servertest.Options{})
	me, err := c.Client.Cluster.WhoAmI(c.Ctx, &v1.WhoAmIRequest{})
	c.Must(err)
	if me.Role != v1.Role_ROLE_ADMIN || me.Method != "socket" {
		t.Errorf("on the socket I am %v", me)
	}
	me, err = c.As(v1.Role_ROLE_USER).Cluster.WhoAmI(c.Ctx, &v1.WhoAmIRequest{})
	c.Must(err)
	if me.Role != v1.Role_ROLE_USER || me.Method != "token" {
		t.Errorf("with a token I am %v", me)
	}
}

func TestRevokedTokenIsWorthlessAtOnce(t *testing.T) {
	c := servertest.Start(t, servertest.Options{})
	viewer := c.As(v1.Role_ROLE_VIEWER)
	_, err := viewer.Nodes.ListNodes(c.Ctx, &v1.ListNodesRequest{})
	c.Must(err)
	list, err := c.Client.Cluster.ListTokens(c.Ctx, &v1.ListTokensRequest{})
	c.Must(err)
	for _, tok := range list.Tokens {
		_, err := c.Client.Cluster.RevokeToken(c.Ctx, &v1.RevokeTokenRequest{Id: tok.Id})
		c.Must(err)
	}
	_, err = viewer.Nodes.ListNodes(c.Ctx, &v1.ListNodesRequest{})
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("after that: %v", err)
	}
}
