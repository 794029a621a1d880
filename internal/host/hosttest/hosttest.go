// Package hosttest is the conformance suite of [host.Disk]: what every disk, real or
// simulated, must do. An implementation passes when [TestDisk] does.
//
// The suite holds a disk to the text of package host and, where that is silent, to
// what Linux does on a local filesystem, so that a program which is right on one
// disk is right on all. It asserts no times, needs no privilege, and leaves open what
// filesystems differ in (space that is reserved beyond the end of a file, lost+found).
package hosttest

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
)

// TestDisk runs the suite. For each subtest it calls open, which returns a disk with
// at least 64 MiB of free space and without names beginning with "t-" in its root;
// the disk is used by the subtest's goroutine only and may be closed in t.Cleanup.
func TestDisk(t *testing.T, open func(t *testing.T) host.Disk) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(newRig(t, open(t))) })
	}
}

var tests = []struct {
	name string
	run  func(*rig)
}{
	// data.go
	{"ReadReturnsWhatWasWritten", readReturnsWritten},
	{"ReadStopsAtEndOfFile", readStopsAtEnd},
	{"HoleReadsAsZeros", holeReadsZeros},
	{"LargeTransferIsWhole", largeTransfer},
	{"EmptyBufferTransfersNothing", emptyBuffer},
	{"PunchedBytesReadAsZerosAndGiveSpaceBack", punch},
	{"PunchBeyondEndKeepsSize", punchBeyondEnd},
	{"AllocateKeepsBytesAndSize", allocate},
	{"TruncateCutsAndZeroExtends", truncate},
	{"StatTellsSizeLinksAndSpace", stat},
	{"SyncSucceeds", syncs},
	{"SpaceIsPlausible", space},
	{"BadRequestsOnFilesAreInvalid", badFileRequests},

	// handles.go
	{"OpenCreatesOnlyWhenAsked", openCreates},
	{"OpenExclusiveRefusesExisting", openExclusive},
	{"HandlesOfOneFileShareData", handlesShare},
	{"ReadOnlyHandleRefusesChanges", readOnly},
	{"DirectHandleDemandsAlignment", directAlignment},
	{"DirectHandleReadsShortTail", directTail},
	{"LockExcludesOtherLocks", lock},
	{"LockIsOfTheFileNotItsName", lockOfFile},
	{"LockWaitWaits", lockWait},
	{"ClosedHandleIsInvalid", closedHandle},
	{"RemovedFileLivesWhileOpen", removedFile},

	// names.go
	{"RenameMovesFile", renameFile},
	{"RenameReplacesFile", renameReplaces},
	{"RenameMovesDirectory", renameDirectory},
	{"RenameRefusesNonsense", renameRefuses},
	{"RenameBetweenLinksOfOneFileIsNothing", renameLinks},
	{"LinkGivesAFurtherName", link},
	{"RemoveTakesNamesAway", remove},
	{"MkdirNeedsParentAndFreeName", mkdir},
	{"ListNamesEveryEntry", list},
	{"SyncDirWantsADirectory", syncDir},
	{"NamesMayBeLongAndOdd", oddNames},
	{"PathsOutsideTheRootAreRefused", escapes},

	// queue.go
	{"ManyOpsInFlightKeepTheirData", manyInFlight},
	{"BatchLargerThanAnyRing", largeBatch},
	{"DoneMaySubmit", doneSubmits},
	{"FailedOpCanBeUsedAgain", opReused},
	{"PollKeepsItsWaits", pollWaits},
	{"InFlightCounts", inFlight},
	{"SubmitDoesNotAllocate", noAllocation},
}
