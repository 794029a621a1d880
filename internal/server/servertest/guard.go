package servertest

import (
	"context"
	"crypto/tls"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// guard is the Trust of a cluster: its authority and its keyring, and the tokens that its
// state knows.
type guard struct {
	store     state.Store
	authority *trust.Authority
	keyring   *trust.Keyring
	tokens    *state.Mirror[*statepb.Token]
	now       func() time.Time
	peer      func(tls.ConnectionState) (block.NodeID, error)
}

// newGuard reads the authority and the keyring from the state, and knows the tokens until
// ctx ends. peer says which node is at the other end of a connection, as trust.Identity's
// Peer does.
func newGuard(ctx context.Context, s state.Store, now func() time.Time, peer func(tls.ConnectionState) (block.NodeID, error)) (*guard, error) {
	authority, err := state.Authority(ctx, s)
	if err != nil {
		return nil, err
	}
	keyring, err := state.Keyring(ctx, s)
	if err != nil {
		return nil, err
	}
	return &guard{store: s, authority: authority, keyring: keyring, tokens: state.NewMirror(ctx, s, state.Tokens, nil), now: now, peer: peer}, nil
}

var roles = map[v1.Role]string{v1.Role_ROLE_VIEWER: "viewer", v1.Role_ROLE_USER: "user", v1.Role_ROLE_ADMIN: "admin"}

// Bearer believes a token that the keyring signed, that has not ended, and that was not
// revoked. A token that the state does not know was revoked or never made.
func (g *guard) Bearer(ctx context.Context, token string) (server.Identity, error) {
	claims, err := g.keyring.Verify(token, g.now())
	if err != nil {
		return server.Identity{}, err
	}
	if claims.Cluster != g.authority.Cluster() {
		return server.Identity{}, fault.Errorf("server", fault.Denied, "it is of another cluster")
	}
	e, ok := g.tokens.Get(claims.ID)
	if !ok {
		if e, err = state.Tokens.Get(ctx, g.store, claims.ID); err != nil {
			return server.Identity{}, fault.Errorf("server", fault.Denied, "this cluster does not know it: %w", err)
		}
	}
	if e.Value.GetToken().GetRevoked() {
		return server.Identity{}, fault.Errorf("server", fault.Denied, "it was revoked")
	}
	for role, name := range roles {
		if name == claims.Role {
			return server.Identity{Role: role, Subject: claims.Subject}, nil
		}
	}
	return server.Identity{}, fault.Errorf("server", fault.Denied, "its role %q is not known", claims.Role)
}

// Node returns the node that is at the other end of a connection.
func (g *guard) Node(c tls.ConnectionState) (string, error) {
	id, err := g.peer(c)
	return id.String(), err
}

// Spend accepts a join token that exists, is not over, and was not used up.
func (g *guard) Spend(ctx context.Context, text string) (state.Op, error) {
	token, err := trust.ParseJoinToken(text)
	if err != nil {
		return state.Op{}, err
	}
	return state.Spend(ctx, g.store, token, g.now())
}

// Certify makes a node's certificate.
func (g *guard) Certify(_ context.Context, csr []byte, node string, addresses []string) ([]byte, [][]byte, error) {
	key, err := trust.CheckCSR(csr)
	if err != nil {
		return nil, nil, fault.WithField(err, "csr")
	}
	id, err := block.ParseNodeID(node)
	if err != nil {
		return nil, nil, fault.Errorf("server", fault.Invalid, "%w", err)
	}
	certificate, err := g.authority.Issue(trust.Request{Node: id, PublicKey: key, Addresses: addresses}, g.now())
	return certificate, [][]byte{g.authority.Certificate()}, err
}

// CreateToken makes a token, whose id it sets.
func (g *guard) CreateToken(ctx context.Context, t *v1.Token) (secret string, err error) {
	kept := &statepb.Token{Token: t}
	if t.Kind == v1.TokenKind_TOKEN_KIND_JOIN {
		j := trust.NewJoinToken(g.authority)
		t.Id, kept.SecretSha256, secret = j.ID, j.SecretHash(), j.String()
	} else {
		t.Id = trust.NewJoinToken(g.authority).ID // as good as any
		claims := trust.Claims{ID: t.Id, Subject: t.Subject, Role: roles[t.Role], Cluster: g.authority.Cluster(), Issued: t.Created.AsTime()}
		if t.Expires != nil {
			claims.Expires = t.Expires.AsTime()
		}
		if secret, err = g.keyring.Sign(claims); err != nil {
			return "", err
		}
	}
	at, err := g.store.Commit(ctx, state.Tokens.Create(t.Id, kept))
	if err != nil {
		return "", err
	}
	return secret, g.tokens.Reach(ctx, at)
}

// ListTokens lists tokens.
func (g *guard) ListTokens(context.Context) (list []*v1.Token, err error) {
	for _, e := range g.tokens.List() {
		list = append(list, e.Value.GetToken())
	}
	return list, nil
}

// RevokeToken makes a token worthless: on this server at once, on others as soon as the
// state tells them.
func (g *guard) RevokeToken(ctx context.Context, id string) (*v1.Token, error) {
	for range 20 {
		e, err := state.Tokens.Get(ctx, g.store, id)
		if err != nil {
			return nil, err
		}
		if e.Value.Token.Revoked {
			return e.Value.Token, nil
		}
		e.Value.Token.Revoked = true
		at, err := g.store.Commit(ctx, state.Tokens.Replace(id, e.Value, e.Revision))
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return e.Value.Token, g.tokens.Reach(ctx, at)
	}
	return nil, fault.Errorf("server", fault.Busy, "the token was not revoked")
}

var _ server.Trust = (*guard)(nil)
