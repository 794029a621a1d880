package node

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/store"
)

// generationUsage asks the volume's replica on this node what its generations take; nil
// when there is none.
func (a *attachment) generationUsage() (map[block.Generation]store.GenerationUsage, error) {
	var usage map[block.Generation]store.GenerationUsage
	err := a.d.node.wait(a.d.ctx, func(done func(error)) {
		for _, r := range a.d.node.residents {
			if r.volume.String() != a.id {
				continue
			}
			r.store.Usage(func(u store.Usage, err error) {
				usage = map[block.Generation]store.GenerationUsage{}
				for _, g := range u.Generations {
					usage[g.Generation] = g
				}
				done(err)
			})
			return
		}
		done(nil)
	})
	return usage, err
}
