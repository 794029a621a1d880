package wire

// Box has room for one message of every kind, so that reading frames allocates nothing
// once its lists have grown to the size they need. The zero value is ready.
type Box struct {
	hello          Hello
	refuse         Refuse
	leave          Leave
	ping           Ping
	pong           Pong
	open           Open
	opened         Opened
	promise        Promise
	promised       Promised
	renew          Renew
	renewed        Renewed
	release        Release
	done           Done
	fail           Fail
	write          Write
	zero           Zero
	read           Read
	readDone       ReadDone
	flush          Flush
	flushed        Flushed
	verify         Verify
	verified       Verified
	clean          Clean
	snapshot       Snapshot
	deleteSnapshot DeleteSnapshot
	grow           Grow
	generations    Generations
	regions        Regions
	regionList     RegionList
	changed        Changed
	extentList     ExtentList
	fill           Fill
	readBlocks     ReadBlocks
	writeBlocks    WriteBlocks
	seal           Seal
}

// message returns the room for a message of kind k, which must be known.
func (b *Box) message(k Kind) Message {
	switch k {
	case KindHello:
		return &b.hello
	case KindRefuse:
		return &b.refuse
	case KindLeave:
		return &b.leave
	case KindPing:
		return &b.ping
	case KindPong:
		return &b.pong
	case KindOpen:
		return &b.open
	case KindOpened:
		return &b.opened
	case KindPromise:
		return &b.promise
	case KindPromised:
		return &b.promised
	case KindRenew:
		return &b.renew
	case KindRenewed:
		return &b.renewed
	case KindRelease:
		return &b.release
	case KindDone:
		return &b.done
	case KindFail:
		return &b.fail
	case KindWrite:
		return &b.write
	case KindZero:
		return &b.zero
	case KindRead:
		return &b.read
	case KindReadDone:
		return &b.readDone
	case KindFlush:
		return &b.flush
	case KindFlushed:
		return &b.flushed
	case KindVerify:
		return &b.verify
	case KindVerified:
		return &b.verified
	case KindClean:
		return &b.clean
	case KindSnapshot:
		return &b.snapshot
	case KindSeal:
		return &b.seal
	case KindDeleteSnapshot:
		return &b.deleteSnapshot
	case KindGrow:
		return &b.grow
	case KindGenerations:
		return &b.generations
	case KindRegions:
		return &b.regions
	case KindRegionList:
		return &b.regionList
	case KindChanged:
		return &b.changed
	case KindExtentList:
		return &b.extentList
	case KindFill:
		return &b.fill
	case KindReadBlocks:
		return &b.readBlocks
	case KindWriteBlocks:
		return &b.writeBlocks
	}
	return nil
}

// Trim lets go of lists that only rare messages need, tens of KiB each, so that many
// boxes that have each held one do not add up.
func (b *Box) Trim() {
	b.opened.Snapshots = nil
	b.generations.List = nil
	b.regionList.List = nil
	b.extentList.List = nil
}
