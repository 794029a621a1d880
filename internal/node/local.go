package node

import (
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// local is a head's conversation with a replica on the same node. The loop's.
type local struct {
	h       *head
	member  int
	r       *resident
	session replica.Session
}

func (l *local) send(s coordinator.Send, hold link.Holder) {
	e := residentEvent{hold: hold}
	if _, ok := s.Msg.(*wire.Read); ok && s.Request != nil && hold != nil {
		e.into = destination{s.Request.Data, s.Request.Sums}
	}
	l.r.receive(l.session, s.ID, s.Msg, e)
}

// answer is sink.answer.
func (l *local) answer(id uint64, msg wire.Message, hold link.Holder) {
	l.h.received(l.member, l, id, msg, hold)
}

func (l *local) version() wire.Version { return wire.Highest }

func (l *local) close() { l.r.leave(l.session) }
