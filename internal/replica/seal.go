package replica

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Sealer is what a Seal is carried out on: the store.
type Sealer interface {
	Prepare(gen block.Generation, done func(error))
	Seal(gen block.Generation, done func(error))
	Confirm(gen block.Generation, done func(error))
}

// Seal carries out what m says.
func Seal(s Sealer, m *wire.Seal, done func(error)) {
	switch m.Step {
	case wire.SealPrepare:
		s.Prepare(m.Generation, done)
	case wire.SealEnd:
		s.Seal(m.Generation, done)
	default:
		s.Confirm(m.Generation, done)
	}
}
