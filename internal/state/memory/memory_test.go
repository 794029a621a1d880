package memory_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statetest"
)

func TestConforms(t *testing.T) {
	statetest.Conform(t, func(t *testing.T) *statetest.Bench {
		s := memory.New()
		t.Cleanup(func() { _ = s.Close() })
		return &statetest.Bench{Store: s, Compact: s.Compact, Expire: s.Expire, Again: func() state.Store { return s }}
	})
}
