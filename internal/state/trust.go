package state

import (
	"context"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// Where the cluster keeps the secrets that every node may read.
const (
	AuthorityKey = Root + "trust/authority" // trust.Authority.Marshal
	KeyringKey   = Root + "trust/keyring"   // trust.Keyring.Marshal
)

// Authority returns the cluster's authority.
func Authority(ctx context.Context, s Store) (*trust.Authority, error) {
	item, err := s.Get(ctx, AuthorityKey)
	if err != nil {
		return nil, err
	}
	return trust.ParseAuthority(item.Value)
}

// Keyring returns the keys with which the cluster signs tokens.
func Keyring(ctx context.Context, s Store) (*trust.Keyring, error) {
	item, err := s.Get(ctx, KeyringKey)
	if err != nil {
		return nil, err
	}
	return trust.ParseKeyring(item.Value)
}

// Spend checks a join token, and returns what to add to the commit that lets the machine
// in, so that a token is not used more often than it may. fault.Denied when it is worth
// nothing.
func Spend(ctx context.Context, s Store, t trust.JoinToken, now time.Time) (Op, error) {
	const op = "state.Spend"
	denied := func(why string) (Op, error) {
		return Op{}, fault.WithCure(fault.Errorf(op, fault.Denied, "the join token %s", why),
			"make another one on a node of the cluster: holdfast token create")
	}
	e, err := Tokens.Get(ctx, s, t.ID)
	if fault.Is(err, fault.NotFound) {
		return denied("is not known here, or was revoked")
	}
	if err != nil {
		return Op{}, fault.Wrap(op, err)
	}
	token := e.Value.GetToken()
	switch {
	case token.GetKind() != v1.TokenKind_TOKEN_KIND_JOIN || !t.Matches(e.Value.GetSecretSha256()):
		return denied("is not known here, or was revoked") // the same words: nobody learns which ids exist
	case token.GetRevoked():
		return denied("was revoked")
	case token.GetExpires() != nil && !now.Before(token.GetExpires().AsTime()):
		return denied("expired at " + token.GetExpires().AsTime().Format(time.RFC3339))
	case token.GetUsesMax() > 0 && e.Value.GetUses() >= token.GetUsesMax():
		return denied("has been used")
	}
	spent := &statepb.Token{Token: token, SecretSha256: e.Value.GetSecretSha256(), Uses: e.Value.GetUses() + 1}
	return Tokens.Replace(t.ID, spent, e.Revision), nil
}
