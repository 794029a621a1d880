package state_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/trust"
)

func TestAJoinTokenIsSpentAsOftenAsItMay(t *testing.T) {
	s, now := memory.New(), time.Unix(1e9, 0)
	defer s.Close()
	authority, err := trust.NewAuthority(block.ClusterID{1}, now)
	if err != nil {
		t.Fatal(err)
	}
	token, stranger := trust.NewJoinToken(authority), trust.NewJoinToken(authority)
	stranger.ID = token.ID
	kept := &statepb.Token{SecretSha256: token.SecretHash(), Token: &v1.Token{Id: token.ID, UsesMax: 1,
		Kind: v1.TokenKind_TOKEN_KIND_JOIN, Expires: timestamppb.New(now.Add(time.Hour))}}
	if _, err := s.Commit(t.Context(), state.Tokens.Create(token.ID, kept)); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, token trust.JoinToken, at time.Time) {
		t.Helper()
		if _, err := state.Spend(t.Context(), s, token, at); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("unknown", trust.NewJoinToken(authority), now)
	refused("another secret", stranger, now)
	refused("expired", token, now.Add(time.Hour))
	first, err := state.Spend(t.Context(), s, token, now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := state.Spend(t.Context(), s, token, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), second); !fault.Is(err, fault.Busy) {
		t.Errorf("two machines at once with a token for one: %v", err)
	}
	refused("used", token, now)
}
