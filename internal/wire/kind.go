package wire

import "strconv"

// Kind says what a frame is. The numbers are part of the format: new kinds go to the
// end, and a number is never used again.
type Kind uint8

// The kinds, each the message type of the same name.
const (
	KindHello Kind = iota + 1
	KindRefuse
	KindLeave
	KindPing
	KindPong

	KindOpen
	KindOpened
	KindPromise
	KindPromised
	KindRenew
	KindRenewed
	KindRelease
	KindDone
	KindFail

	KindWrite
	KindZero
	KindRead
	KindReadDone
	KindFlush
	KindFlushed
	KindVerify
	KindVerified

	KindClean
	KindSnapshot
	KindDeleteSnapshot
	KindGrow
	KindGenerations
	KindRegions
	KindRegionList
	KindChanged
	KindExtentList
	KindFill
	KindReadBlocks
	KindWriteBlocks
	KindSeal
	kindEnd
)

type side uint8

const (
	either  side = iota // both ends of a connection say it, about the connection
	asks                // a coordinator says it
	answers             // a replica says it
)

var kinds = [kindEnd]struct {
	name string
	side side
	data bool
}{
	KindHello:          {"Hello", either, false},
	KindRefuse:         {"Refuse", either, false},
	KindLeave:          {"Leave", answers, false},
	KindPing:           {"Ping", either, false},
	KindPong:           {"Pong", either, false},
	KindOpen:           {"Open", asks, false},
	KindOpened:         {"Opened", answers, false},
	KindPromise:        {"Promise", asks, false},
	KindPromised:       {"Promised", answers, false},
	KindRenew:          {"Renew", asks, false},
	KindRenewed:        {"Renewed", answers, false},
	KindRelease:        {"Release", asks, false},
	KindDone:           {"Done", answers, false},
	KindFail:           {"Fail", answers, false},
	KindWrite:          {"Write", asks, true},
	KindZero:           {"Zero", asks, false},
	KindRead:           {"Read", asks, false},
	KindReadDone:       {"ReadDone", answers, true},
	KindFlush:          {"Flush", asks, false},
	KindFlushed:        {"Flushed", answers, false},
	KindVerify:         {"Verify", asks, false},
	KindVerified:       {"Verified", answers, false},
	KindClean:          {"Clean", asks, false},
	KindSnapshot:       {"Snapshot", asks, false},
	KindDeleteSnapshot: {"DeleteSnapshot", asks, false},
	KindGrow:           {"Grow", asks, false},
	KindGenerations:    {"Generations", asks, false},
	KindRegions:        {"Regions", asks, false},
	KindRegionList:     {"RegionList", answers, false},
	KindChanged:        {"Changed", asks, false},
	KindExtentList:     {"ExtentList", answers, false},
	KindFill:           {"Fill", asks, true},
	KindReadBlocks:     {"ReadBlocks", asks, false},
	KindWriteBlocks:    {"WriteBlocks", asks, true},
	KindSeal:           {"Seal", asks, false},
}

// String names the kind.
func (k Kind) String() string {
	if k.known() {
		return kinds[k].name
	}
	return "kind " + strconv.Itoa(int(k))
}

// FromCoordinator reports whether coordinators say it, to a replica. The channel of such
// a message was chosen by its sender.
func (k Kind) FromCoordinator() bool { return k.known() && kinds[k].side == asks }

// FromReplica reports whether replicas say it, to a coordinator. The channel of such a
// message was chosen by its receiver, so one connection carries conversations of both
// ends without mixing them up.
func (k Kind) FromReplica() bool { return k.known() && kinds[k].side == answers }

func (k Kind) known() bool       { return k > 0 && k < kindEnd }
func (k Kind) carriesData() bool { return k.known() && kinds[k].data }
