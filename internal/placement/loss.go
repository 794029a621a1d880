package placement

import (
	"errors"
	"iter"
)

// Placed is a volume with the replicas it has.
type Placed struct {
	Volume   Volume
	Replicas []Held
}

// Loss is what it would mean to lose nodes.
type Loss struct {
	Volumes  int              // that lose a replica
	Replicas int              // that are lost
	Bytes    int64            // to be copied to rebuild them
	Lost     []string         // volumes whose every good copy goes
	Single   []string         // volumes that keep one good copy only
	Homeless []Homeless       // volumes that can't be rebuilt
	Into     map[string]int64 // pool -> bytes that would be rebuilt there
}

// Homeless is a volume that has no place left.
type Homeless struct {
	Volume  string
	Refusal *Refusal
}

// Lose says what the loss of nodes, by id, would mean, and where their replicas would be
// rebuilt. c is as before.
func (c *Cluster) Lose(volumes iter.Seq[Placed], nodes ...string) Loss {
	d := c.Clone()
	gone := map[int32]bool{-1: true}
	for _, id := range nodes {
		if i, ok := d.nodeOf[id]; ok {
			d.nodes[i].lost, gone[i] = true, true
		}
	}
	loss := Loss{Into: map[string]int64{}}
	for v := range volumes {
		d.lose(v, gone, &loss)
	}
	return loss
}

func (c *Cluster) lose(v Placed, nodes map[int32]bool, loss *Loss) {
	var kept []string
	good, gone, goodGone := 0, 0, 0
	for _, h := range v.Replicas {
		n := c.nodeOfPool(h.Pool)
		switch lost := nodes[n]; {
		case lost:
			gone++
			goodGone += int(yes(h.InSync))
		default:
			kept = append(kept, h.Pool)
			good += int(yes(h.InSync))
		}
	}
	if gone == 0 {
		return
	}
	loss.Volumes++
	loss.Replicas += gone
	switch {
	case good == 0 && goodGone > 0:
		loss.Lost = append(loss.Lost, v.Volume.ID)
		return
	case good == 1 && goodGone > 0:
		loss.Single = append(loss.Single, v.Volume.ID)
	}
	for range gone {
		to, err := c.Choose(Request{Volume: v.Volume, Replicas: 1, Held: kept})
		var refusal *Refusal
		if errors.As(err, &refusal) {
			loss.Homeless = append(loss.Homeless, Homeless{v.Volume.ID, refusal})
			return
		}
		kept = append(kept, to[0])
		c.Promise(to[0], v.Volume.Group, v.Volume.Size)
		c.Use(to[0], c.pools[c.poolOf[to[0]]].Used+v.Volume.Used)
		loss.Bytes += v.Volume.Used
		loss.Into[to[0]] += v.Volume.Used
	}
}
