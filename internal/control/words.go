package control

import (
	"cmp"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// clock prints a time for people.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func (v *view) nodeName(id string) string {
	return cmp.Or(v.nodes.value(id).GetMeta().GetName(), id)
}

func (v *view) volumeName(id string) string {
	return cmp.Or(v.volumes.value(id).GetMeta().GetName(), id)
}

// placeText says where a replica is.
func (v *view) placeText(r *statepb.AssignedReplica) string {
	return "node " + v.nodeName(r.NodeId)
}

// placesText says where replicas are.
func (v *view) placesText(replicas []*statepb.AssignedReplica) string {
	if len(replicas) == 0 {
		return "no node"
	}
	var names []string
	for _, r := range replicas {
		names = append(names, v.nodeName(r.NodeId))
	}
	if len(names) == 1 {
		return "node " + names[0]
	}
	return "nodes " + strings.Join(names, ", ")
}
