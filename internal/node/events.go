package node

import (
	"crypto/rand"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
)

// repairsToldEvery is how often it is recorded that blocks were repaired, while more are.
const repairsToldEvery = time.Minute

// repairs returns what records that blocks were repaired since that was said last, and
// how many there are in all; nothing when there are none, or it was said just now.
func (a *attachment) repairs(now *v1.AttachmentStatus) (ops []state.Op, all uint64) {
	all = now.GetStats().GetRepairedBlocks()
	if all <= a.repaired || time.Since(a.repairsTold) < repairsToldEvery {
		return nil, a.repaired
	}
	where := ""
	for _, c := range now.Conditions {
		if c.Type == "Damaged" {
			where = "; " + c.Message
		}
	}
	return []state.Op{a.event("warning", "BlocksRepaired", "%d blocks could not be read from one copy, and were written anew there from another%s", all-a.repaired, where)}, all
}

// event returns what records something that happened to the volume.
func (a *attachment) event(severity, reason, format string, args ...any) state.Op {
	at, name := time.Now(), a.id
	if w := a.wished(); w.volume != nil {
		name = w.volume.Meta.GetName()
	}
	id := state.EventID(at, rand.Text())
	return state.Events.Create(id, &v1.Event{Id: id, Time: timestamppb.New(at), Object: state.KindVolume + "/" + a.id, ObjectName: name,
		Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...), NodeId: a.d.o.Node.String()})
}
