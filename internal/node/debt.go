package node

import (
	"sync/atomic"

	"github.com/holdfast-io/holdfast/internal/wire"
)

// debt is what a connection is owed: answers with data that were asked for by it, and are
// not sent yet. Messages that ask for more than debtMax wait, and so do those behind them in
// the same conversation: who asks faster than the network brings answers is held back, and
// who does not read them at all costs no more memory than that.
type debt struct {
	bytes atomic.Int64
	short atomic.Bool // somebody waits for it to become less
	again func()      // has whoever waits look again: from any goroutine
}

// debtMax is for how many bytes a connection may ask at once. One message that asks for
// more is served by itself.
const debtMax = 16 << 20

// answersMax are the bytes of answers that may wait on a connection: those that are owed,
// and many that have no data.
const answersMax = debtMax + 16<<20

// fits reports whether so many bytes more may be owed now. If not, again is called once
// they may.
func (d *debt) fits(n int64) bool {
	if n == 0 || d.room(n) {
		return true
	}
	d.short.Store(true)
	return d.room(n) && d.short.CompareAndSwap(true, false) // paid meanwhile
}

func (d *debt) room(n int64) bool {
	owed := d.bytes.Load()
	return owed == 0 || owed+n <= debtMax
}

// pay takes off what was sent, or never will be.
func (d *debt) pay(n int64) {
	d.bytes.Add(-n)
	if d.short.CompareAndSwap(true, false) {
		d.again()
	}
}

// answerBytes is how much memory the answer to a message takes, if that is much.
func answerBytes(m wire.Message) int64 {
	switch m := m.(type) {
	case *wire.Read:
		return min(m.Extent.Bytes(), wire.DataMax)
	case *wire.ReadBlocks:
		return min(m.Blocks.Span().Bytes(), wire.DataMax)
	case *wire.Regions, *wire.Changed:
		return wire.MetaMax
	}
	return 0
}
