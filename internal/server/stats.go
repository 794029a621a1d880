package server

import (
	"context"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// statsOverMax is the longest time that figures may be taken over: a caller waits for it.
const statsOverMax = time.Minute

// GetVolumeStats says what I/O a volume has, as the node measures it that it is attached to.
// What another node asks goes no further.
func (s *volumes) GetVolumeStats(ctx context.Context, r *v1.GetVolumeStatsRequest) (*v1.VolumeStats, error) {
	over := r.Over.AsDuration()
	if over < 0 || over > statsOverMax {
		return nil, invalid("over", "give up to a minute, or leave it out", "%v can't be", over)
	}
	e, err := s.findVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	name, at := e.Value.GetMeta().GetName(), s.view.device(e.ID)
	if at == nil {
		return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is not attached: it has no I/O", name), "attach it: holdfast volume attach "+name)
	}
	var stats *v1.VolumeStats
	switch address := value(s.view.nodeStatuses, at.NodeId).GetApiAddress(); {
	case at.NodeId == s.options.NodeID && s.options.Devices != nil:
		stats, err = s.options.Devices.Stats(ctx, e.ID, over)
	case who(ctx).Role == v1.Role_ROLE_NODE || s.options.Others == nil || address == "":
		err = fault.Errorf("server", fault.Unavailable, "node %s, where it is attached, can't be asked", s.view.nodeName(at.NodeId))
	default:
		c, dialErr := s.options.Others.Volumes(address)
		if dialErr != nil {
			return nil, dialErr
		}
		stats, err = c.GetVolumeStats(ctx, &v1.GetVolumeStatsRequest{Volume: e.ID, Over: r.Over})
	}
	if fault.Is(err, fault.NotFound) { // there is a status, and no device
		err = fault.Errorf("server", fault.Unavailable, "node %s has no device of volume %s now: %w", s.view.nodeName(at.NodeId), name, err)
	}
	return stats, err
}
