package daemon

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// trustee is the server's Trust: it knows the cluster's secrets, and the tokens.
type trustee struct {
	store  state.Store
	wallet *trust.Wallet
	tokens *state.Mirror[*statepb.Token]

	mu      sync.Mutex
	keyring *trust.Keyring // once it was needed
}

func newTrustee(ctx context.Context, s state.Store, w *trust.Wallet) *trustee {
	return &trustee{store: s, wallet: w, tokens: state.NewMirror(ctx, s, state.Tokens, nil)}
}

// ring returns the cluster's keyring.
func (t *trustee) ring(ctx context.Context) (*trust.Keyring, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keyring == nil {
		k, err := state.Keyring(ctx, t.store)
		if err != nil {
			return nil, err
		}
		t.keyring = k
	}
	return t.keyring, nil
}

// Bearer returns who holds a token of the API.
func (t *trustee) Bearer(ctx context.Context, token string) (server.Identity, error) {
	const op = "daemon.Bearer"
	ring, err := t.ring(ctx)
	if err != nil {
		return server.Identity{}, err
	}
	c, err := ring.Verify(token, time.Now())
	if err != nil {
		return server.Identity{}, err
	}
	select {
	case <-t.tokens.Ready():
	case <-ctx.Done():
		return server.Identity{}, state.Ended(op, ctx)
	}
	e, known := t.tokens.Get(c.ID)
	if !known { // it may be so new that the mirror does not have it yet
		if e, err = state.Tokens.Get(ctx, t.store, c.ID); err != nil && !fault.Is(err, fault.NotFound) {
			return server.Identity{}, err
		}
	}
	kept := e.Value.GetToken()
	if kept == nil || kept.GetRevoked() || kept.GetKind() != v1.TokenKind_TOKEN_KIND_API || c.Cluster != t.wallet.Identity().Cluster {
		return server.Identity{}, fault.Errorf(op, fault.Denied, "the token was revoked")
	}
	return server.Identity{Role: kept.GetRole(), Subject: kept.GetSubject(), Method: "token"}, nil
}

// Node returns the node at the other end of a connection.
func (t *trustee) Node(c tls.ConnectionState) (string, error) {
	node, err := t.wallet.Identity().Peer(c)
	if err != nil {
		return "", err
	}
	return node.String(), nil
}

// Spend accepts a join token.
func (t *trustee) Spend(ctx context.Context, token string) (state.Op, error) {
	parsed, err := trust.ParseJoinToken(token)
	if err != nil {
		return state.Op{}, err
	}
	return state.Spend(ctx, t.store, parsed, time.Now())
}

// Certify makes a node's certificate.
func (t *trustee) Certify(ctx context.Context, csr []byte, node string, addresses []string) ([]byte, [][]byte, error) {
	authority, err := state.Authority(ctx, t.store)
	if err != nil {
		return nil, nil, err
	}
	key, err := trust.CheckCSR(csr)
	if err != nil {
		return nil, nil, err
	}
	id, err := block.ParseNodeID(node)
	if err != nil {
		return nil, nil, fault.E("daemon.Certify", fault.Invalid, block.VolumeID{}, err)
	}
	cert, err := authority.Issue(trust.Request{Node: id, PublicKey: key, Addresses: addresses}, time.Now())
	return cert, [][]byte{authority.Certificate()}, err
}

// CreateToken makes a token.
func (t *trustee) CreateToken(ctx context.Context, token *v1.Token) (string, error) {
	kept := &statepb.Token{Token: proto.CloneOf(token)}
	var secret string
	if token.GetKind() == v1.TokenKind_TOKEN_KIND_JOIN {
		authority, err := state.Authority(ctx, t.store)
		if err != nil {
			return "", err
		}
		join := trust.NewJoinToken(authority)
		kept.Token.Id, kept.SecretSha256, secret = join.ID, join.SecretHash(), join.String()
	} else {
		ring, err := t.ring(ctx)
		if err != nil {
			return "", err
		}
		kept.Token.Id = rand.Text()[:10]
		claims := trust.Claims{ID: kept.Token.Id, Subject: token.GetSubject(), Role: token.GetRole().String(),
			Cluster: t.wallet.Identity().Cluster, Issued: token.GetCreated().AsTime()}
		if token.GetExpires() != nil {
			claims.Expires = token.GetExpires().AsTime()
		}
		if secret, err = ring.Sign(claims); err != nil {
			return "", err
		}
	}
	if _, err := t.store.Commit(ctx, state.Tokens.Create(kept.Token.Id, kept)); err != nil {
		return "", err
	}
	token.Id = kept.Token.Id
	return secret, nil
}

// ListTokens lists tokens in the order of their ids.
func (t *trustee) ListTokens(ctx context.Context) ([]*v1.Token, error) {
	entries, _, err := state.Tokens.List(ctx, t.store)
	var list []*v1.Token
	for _, e := range entries {
		list = append(list, e.Value.GetToken())
	}
	return list, err
}

// RevokeToken makes a token worthless.
func (t *trustee) RevokeToken(ctx context.Context, id string) (*v1.Token, error) {
	for {
		e, err := state.Tokens.Get(ctx, t.store, id)
		if err != nil {
			return nil, err
		}
		e.Value.Token.Revoked = true
		at, err := t.store.Commit(ctx, state.Tokens.Replace(id, e.Value, e.Revision))
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return e.Value.Token, t.tokens.Reach(ctx, at)
	}
}
