package server

import (
	"bytes"
	"cmp"
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// clusters is the ClusterService.
type clusters struct{ *Server }

// clusterTable is the one key that says who the cluster is.
var clusterTable = state.Table[*v1.Cluster]{Prefix: state.Root}

var clusterID = strings.TrimPrefix(state.ClusterKey, state.Root)

// Found writes who the cluster is, once; a cluster that has been founded stays as it is.
// It returns what there is.
func Found(ctx context.Context, s state.Store, c *v1.Cluster) (*v1.Cluster, error) {
	_, err := s.Commit(ctx, clusterTable.Create(clusterID, c))
	if err != nil && !fault.Is(err, fault.Busy) {
		return nil, err
	}
	e, err := clusterTable.Get(ctx, s, clusterID)
	return e.Value, err
}

// cluster returns who the cluster is, with its settings; never nil.
func (s *Server) cluster(ctx context.Context) *v1.Cluster {
	if e, err := clusterTable.Get(ctx, s.store, clusterID); err == nil {
		s.named.Store(clone(e.Value))
	}
	return s.knownCluster()
}

// knownCluster returns who the cluster is, as far as is known without asking.
func (s *Server) knownCluster() *v1.Cluster {
	out := &v1.Cluster{Meta: &v1.Meta{Name: "holdfast"}}
	if known := s.named.Load(); known != nil {
		out = clone(known)
	}
	out.Settings, out.Defaults = clone(s.view.setting()), s.defaults()
	return out
}

// defaults are what holds where nobody has set anything.
func (s *Server) defaults() *v1.ClusterSettings {
	d := control.Defaults()
	d.DefaultReplicas, d.DefaultFilesystem = s.defaultReplicas(), filesystemDefault
	return d
}

// GetCluster returns who the cluster is, and its settings.
func (s *clusters) GetCluster(ctx context.Context, _ *v1.GetClusterRequest) (*v1.Cluster, error) {
	return s.cluster(ctx), nil
}

// WhoAmI returns whom the server takes the caller for.
func (s *clusters) WhoAmI(ctx context.Context, _ *v1.WhoAmIRequest) (*v1.WhoAmIResponse, error) {
	id := who(ctx)
	return &v1.WhoAmIResponse{Role: id.Role, Subject: id.Subject, Method: id.Method, NodeId: id.NodeID}, nil
}

// UpdateSettings changes the settings that are named.
func (s *clusters) UpdateSettings(ctx context.Context, r *v1.UpdateSettingsRequest) (*v1.Cluster, error) {
	if len(r.Paths) == 0 {
		return nil, invalid("paths", "name the settings that change, such as repair_delay", "it is empty")
	}
	settings := r.Settings
	if settings == nil {
		settings = &v1.ClusterSettings{}
	}
	if err := checkSettings(settings, r.Paths); err != nil {
		return nil, err
	}
	for range attemptsMax {
		e, err := state.Settings.Get(ctx, s.store, state.SettingsID)
		if fault.Is(err, fault.NotFound) {
			e, err = state.Entry[*v1.ClusterSettings]{Value: &v1.ClusterSettings{}}, nil
		}
		if err != nil {
			return nil, unreachableIf(err)
		}
		take(e.Value, settings, r.Paths)
		op := state.Settings.Replace(state.SettingsID, e.Value, e.Revision)
		if e.Revision == 0 {
			op = state.Settings.Create(state.SettingsID, e.Value)
		}
		at, err := s.commit(ctx, op, s.event(ctx, "cluster", s.cluster(ctx).Meta, "SettingsChanged", "changed: %s", strings.Join(r.Paths, ", ")))
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.view.settings.Reach(ctx, at); err != nil {
			return nil, err
		}
		return s.cluster(ctx), nil
	}
	return nil, fault.Errorf("server", fault.Busy, "the settings were not changed: %w", errTooBusy)
}

// take copies the fields that are named.
func take(to, from *v1.ClusterSettings, paths []string) {
	for _, p := range paths {
		f := to.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(p))
		if from.ProtoReflect().Has(f) {
			to.ProtoReflect().Set(f, from.ProtoReflect().Get(f))
		} else {
			to.ProtoReflect().Clear(f)
		}
	}
}

// settingNames are the settings that there are.
func settingNames() (names []string) {
	fields := (&v1.ClusterSettings{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); name != "revision" {
			names = append(names, name)
		}
	}
	return names
}

// checkSettings refuses settings that don't exist or make no sense.
func checkSettings(set *v1.ClusterSettings, paths []string) error {
	m := set.ProtoReflect()
	for _, p := range paths {
		f := m.Descriptor().Fields().ByName(protoreflect.Name(p))
		if f == nil || p == "revision" {
			return invalid("paths", "the settings are "+strings.Join(settingNames(), ", "), "there is no setting %q", p)
		}
		field := "settings." + p
		switch f.Kind() {
		case protoreflect.MessageKind:
			if d, ok := m.Get(f).Message().Interface().(*durationpb.Duration); ok && m.Has(f) && (!d.IsValid() || d.AsDuration() < 0 || d.AsDuration() > 10*365*24*time.Hour) {
				return invalid(field, "give a time such as 10m or 24h", "%s can't be", d.AsDuration())
			}
		case protoreflect.Int32Kind, protoreflect.Int64Kind:
			if m.Get(f).Int() < 0 {
				return invalid(field, "give a positive number, or 0", "%d is negative", m.Get(f).Int())
			}
		}
	}
	switch n := set.GetOvercommitPercent(); {
	case set.OvercommitPercent != nil && (n < 10 || n > 10000):
		return invalid("settings.overcommit_percent", "give a number from 10 to 10000; 100 promises no more than there is", "%d can't be", n)
	case set.GetDefaultReplicas() > replicasMax:
		return invalid("settings.default_replicas", "give a number from 1 to 7", "%d can't be", set.GetDefaultReplicas())
	case set.GetRepairDownPercentMax() > 100:
		return invalid("settings.repair_down_percent_max", "give a number up to 100", "%d can't be", set.GetRepairDownPercentMax())
	}
	return oneOf("settings.default_filesystem", set.GetDefaultFilesystem(), "ext4", "xfs", "none")
}

// Join makes a machine a node.
func (s *clusters) Join(ctx context.Context, r *v1.JoinRequest) (*v1.JoinResponse, error) {
	trust := s.options.Trust
	if trust == nil {
		return nil, fault.Errorf("server", fault.Unsupported, "this server lets nobody join")
	}
	if err := s.checkJoin(r); err != nil {
		return nil, err
	}
	node, err := s.joined(ctx, r)
	if err != nil {
		return nil, err
	}
	certificate, authorities, err := trust.Certify(ctx, r.Csr, node.ID, r.Addresses)
	if err != nil {
		return nil, err
	}
	cluster := s.cluster(ctx)
	out := &v1.JoinResponse{ClusterId: cluster.Meta.Id, ClusterName: cluster.Meta.Name, Node: s.view.node(node), Certificate: certificate, Authorities: authorities}
	if s.options.Metadata != nil {
		_, out.MetadataEndpoints = s.options.Metadata.Status(ctx)
	}
	return out, nil
}

func (s *clusters) checkJoin(r *v1.JoinRequest) error {
	for _, err := range []error{checkName("name", r.Name), checkLabels("labels", r.Labels)} {
		if err != nil {
			return err
		}
	}
	if r.NodeId != "" {
		if _, err := block.ParseNodeID(r.NodeId); err != nil {
			return invalid("node_id", "leave it out, or give the id that the node had", "%w", err)
		}
	}
	if len(r.Csr) == 0 {
		return invalid("csr", "send a certificate request", "it is empty")
	}
	for field, place := range map[string]string{"region": r.Region, "zone": r.Zone, "rack": r.Rack} {
		if place != "" && !nameForm.MatchString(place) {
			return invalid(field, "use letters, digits, dots, dashes and underscores", "%q is no name", place)
		}
	}
	return nil
}

// joined writes the node, or finds the one that it was before; either counts the token. A
// name that another node has is refused, unless it is the same machine, which says so by
// its id.
func (s *clusters) joined(ctx context.Context, r *v1.JoinRequest) (e state.Entry[*v1.Node], err error) {
	for range attemptsMax {
		spend, err := s.options.Trust.Spend(ctx, r.Token)
		if err != nil {
			return e, unreachableIf(err)
		}
		e, err = s.joinOnce(ctx, r, spend)
		if !fault.Is(err, fault.Busy) {
			return e, err
		}
		if id, err := s.fresh(ctx, state.KindNode, r.Name); err == nil && (r.NodeId == "" || id != r.NodeId) {
			return e, fault.WithField(fault.WithCure(fault.Errorf("server", fault.Exists, "name: there is a node %s already", r.Name),
				"choose another name with --name; if that node is gone for good: holdfast node remove "+r.Name), "name")
		}
	}
	return e, fault.Errorf("server", fault.Busy, "node %s did not join: %w", r.Name, errTooBusy)
}

func (s *clusters) joinOnce(ctx context.Context, r *v1.JoinRequest, spend state.Op) (state.Entry[*v1.Node], error) {
	if r.NodeId != "" {
		e, err := state.Nodes.Get(ctx, s.store, r.NodeId)
		if err == nil {
			if err := s.mayReturn(e); err != nil {
				return e, err
			}
			_, err := s.commit(ctx, spend, state.Nodes.Require(e.ID, e.Revision), s.event(ctx, state.KindNode, e.Value.Meta, "Returned", "it has joined anew"))
			return e, err
		}
		if !fault.Is(err, fault.NotFound) {
			return e, unreachableIf(err)
		}
	}
	meta, err := s.newMeta(r.Name, r.Labels)
	if err != nil {
		return state.Entry[*v1.Node]{}, err
	}
	meta.Id = cmp.Or(r.NodeId, meta.Id) // a machine that was removed comes back as it was
	n := &v1.Node{Meta: meta, Spec: &v1.NodeSpec{Region: r.Region, Zone: r.Zone, Rack: r.Rack}}
	at, err := s.commit(ctx, spend, state.Nodes.Create(meta.Id, n), state.Removed.Delete(meta.Id, 0), state.Create(state.NameKey(state.KindNode, r.Name), []byte(meta.Id)),
		s.event(ctx, state.KindNode, meta, "Joined", "node %s has joined", r.Name))
	if err != nil {
		return state.Entry[*v1.Node]{}, err
	}
	restamp(n, at)
	return state.Entry[*v1.Node]{ID: meta.Id, Value: n, Revision: at}, s.view.nodes.Reach(ctx, at)
}

// mayReturn lets a node join that is known. One that is up is refused: there would be two.
func (s *clusters) mayReturn(e state.Entry[*v1.Node]) error {
	name := e.Value.GetMeta().GetName()
	switch {
	case s.view.up(e.ID):
		return fault.WithCure(fault.Errorf("server", fault.Exists, "node %s is up: two machines can't be one node", name),
			"stop the other one; or let this one join as a new node, with an empty data directory")
	case e.Value.GetSpec().GetRemoved():
		return fault.WithCure(fault.Errorf("server", fault.Precondition, "node %s is being removed", name), "wait for that, then join again")
	}
	return nil
}

// RenewCertificate gives a node a new certificate.
func (s *clusters) RenewCertificate(ctx context.Context, r *v1.RenewCertificateRequest) (*v1.RenewCertificateResponse, error) {
	id := who(ctx)
	switch {
	case s.options.Trust == nil:
		return nil, fault.Errorf("server", fault.Unsupported, "this server certifies nobody")
	case id.NodeID == "":
		return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "only a node renews its certificate, and %s is none", id.Subject), "call with the node's certificate")
	case len(r.Csr) == 0:
		return nil, invalid("csr", "send a certificate request", "it is empty")
	}
	certificate, authorities, err := s.options.Trust.Certify(ctx, bytes.Clone(r.Csr), id.NodeID, r.Addresses)
	return &v1.RenewCertificateResponse{Certificate: certificate, Authorities: authorities}, err
}

// lifetimeMax is the longest that a token may live.
const lifetimeMax = 10 * 365 * 24 * time.Hour

// joinLifetime is how long a join token lives when nobody says.
const joinLifetime = 24 * time.Hour

// CreateToken makes a token.
func (s *clusters) CreateToken(ctx context.Context, r *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	if s.options.Trust == nil {
		return nil, fault.Errorf("server", fault.Unsupported, "this server knows no tokens")
	}
	t := &v1.Token{Kind: r.Kind, Role: r.Role, Subject: r.Subject, Created: s.stamp(), UsesMax: r.UsesMax}
	lifetime := r.Lifetime.AsDuration()
	switch {
	case r.Kind != v1.TokenKind_TOKEN_KIND_JOIN && r.Kind != v1.TokenKind_TOKEN_KIND_API:
		return nil, invalid("kind", "use TOKEN_KIND_JOIN or TOKEN_KIND_API", "it is missing")
	case r.Kind == v1.TokenKind_TOKEN_KIND_API && (r.Role < v1.Role_ROLE_VIEWER || r.Role > v1.Role_ROLE_ADMIN):
		return nil, invalid("role", "use ROLE_VIEWER, ROLE_USER or ROLE_ADMIN", "a token needs a role")
	case r.Kind == v1.TokenKind_TOKEN_KIND_API && r.Subject == "":
		return nil, invalid("subject", "say who gets it, for the logs", "it is empty")
	case r.UsesMax < 0 || r.UsesMax > 0 && r.Kind != v1.TokenKind_TOKEN_KIND_JOIN:
		return nil, invalid("uses_max", "give a number for a join token, or leave it out", "%d can't be", r.UsesMax)
	case r.Kind == v1.TokenKind_TOKEN_KIND_JOIN && r.Role != 0:
		return nil, invalid("role", "leave it out", "who joins becomes a node")
	case lifetime < 0 || lifetime > lifetimeMax || r.Lifetime != nil && lifetime == 0:
		return nil, invalid("lifetime", "give a time such as 24h, or leave it out", "%s can't be", lifetime)
	case r.Lifetime == nil && r.Kind == v1.TokenKind_TOKEN_KIND_JOIN:
		lifetime = joinLifetime
	}
	if lifetime > 0 {
		t.Expires = timestamppb.New(s.now().Add(lifetime))
	}
	secret, err := s.options.Trust.CreateToken(ctx, t)
	if err != nil {
		return nil, unreachableIf(err)
	}
	s.log.Info("token made", "token", t.Id, "kind", t.Kind.String(), "role", roleName(t.Role), "subject", t.Subject, "by", who(ctx).Subject)
	return &v1.CreateTokenResponse{Token: t, Secret: secret}, nil
}

// ListTokens lists the tokens.
func (s *clusters) ListTokens(ctx context.Context, r *v1.ListTokensRequest) (*v1.ListTokensResponse, error) {
	if s.options.Trust == nil {
		return &v1.ListTokensResponse{}, nil
	}
	list, err := s.options.Trust.ListTokens(ctx)
	if err != nil {
		return nil, unreachableIf(err)
	}
	key := func(t *v1.Token) string { return t.Id }
	list, next, err := page(sortedBy(list, key), r.PageSize, r.PageToken, key)
	return &v1.ListTokensResponse{Tokens: list, NextPageToken: next}, err
}

// RevokeToken makes a token worthless.
func (s *clusters) RevokeToken(ctx context.Context, r *v1.RevokeTokenRequest) (*v1.Token, error) {
	if r.Id == "" {
		return nil, invalid("id", "give the id of a token: holdfast token list", "it is empty")
	}
	if s.options.Trust == nil {
		return nil, fault.Errorf("server", fault.NotFound, "there is no token %q", r.Id)
	}
	t, err := s.options.Trust.RevokeToken(ctx, r.Id)
	if fault.Is(err, fault.NotFound) {
		err = fault.WithCure(fault.Errorf("server", fault.NotFound, "there is no token %q", r.Id), "see which there are: holdfast token list")
	}
	return t, unreachableIf(err)
}
