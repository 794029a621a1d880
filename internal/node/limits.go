package node

import (
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/coordinator"
)

// limit has the head keep to the volume's limits.
func (a *attachment) limit(w wish) error {
	l := w.volume.Spec.Limits
	if proto.Equal(l, a.limited) {
		return nil
	}
	h := a.head
	a.d.node.do(func() { h.coord.SetLimits(limitsOf(l)) })
	a.limited = l
	return nil
}

func limitsOf(l *v1.Limits) coordinator.Limits {
	return coordinator.Limits{Reads: float64(l.GetReadIops()), Writes: float64(l.GetWriteIops()),
		ReadBytes: float64(l.GetReadBytesPerSecond()), WriteBytes: float64(l.GetWriteBytesPerSecond())}
}
