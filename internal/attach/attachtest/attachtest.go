// Package attachtest is the conformance suite of [attach.Frontend]: what every front
// end must do, whatever it is made of. A front end passes when [Run] does.
//
// The suite puts backends of its own behind the front end (memory, a file, ones that
// hold requests back and fail them) and works the device as its users do. It
// asserts no times.
//
// The tests of a front end call [Main] from TestMain, because the suite kills the
// process that serves a device: it starts the test binary again for that.
package attachtest

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
)

// Suite says how to make the front end under test.
type Suite struct {
	// Prepare, if not nil, makes ready what front ends with sockets, links and the like
	// in the directory dir need beside them, such as a keeper.
	Prepare func(t testing.TB, dir string)
	// New returns a front end that was not started, with what it needs in dir, and a
	// function that gives back what it opened for that, once the front end has ended.
	// The child process of the suite calls it too.
	New func(dir string, o attach.Options) (attach.Frontend, func(), error)
	// Open returns a client of a started front end; nil opens its block device.
	Open func(t testing.TB, f attach.Frontend) Client
	// Rescue, if not nil, takes away every device that was made in dir, whoever serves it:
	// for clean-up after a failed test, whose users may hang.
	Rescue func(dir string)
	// Coarse says that a time-out can't be told from other errors.
	Coarse bool
	// OnlyEIO says that all errors are EIO.
	OnlyEIO bool
	// FixedSize says that a device can't grow while it is there.
	FixedSize bool
	// Uncounted says that requests of a predecessor can't be told from new ones.
	Uncounted bool
	// ExitsToHandOver says that a device is handed over when its process ends.
	ExitsToHandOver bool
	// Volatile says that the device ends with its process, so it can't be taken over.
	Volatile bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	run(t, s, func(test test) bool {
		return (!test.outlives || !s.Volatile) && (!test.grows || !s.FixedSize) &&
			(!test.alone || !s.ExitsToHandOver)
	})
}

// RunOutliving runs the part of the suite in which the device outlives its process: for
// front ends that have more than one way of that.
func RunOutliving(t *testing.T, s Suite) { run(t, s, func(test test) bool { return test.outlives }) }

func run(t *testing.T, s Suite, want func(test) bool) {
	if s.Open == nil {
		s.Open = openDevice
	}
	for _, test := range tests {
		if want(test) {
			t.Run(test.name, func(t *testing.T) { test.run(t, s) })
		}
	}
}

// test is one of the suite.
type test struct {
	name     string
	run      func(t *testing.T, s Suite)
	outlives bool // the device must outlive its process
	grows    bool // the device must grow
	alone    bool // the device must pass from front end to front end of one process
}

var tests = []test{
	// data.go
	{name: "DeviceHasSizeAndBlockSize", run: sizes},
	{name: "ReadReturnsWhatWasWritten", run: readReturnsWritten},
	{name: "LastBlockIsThereAndNothingBehindIt", run: lastBlock},
	{name: "FlushReachesTheBackend", run: flush},
	{name: "WriteThroughIsDurable", run: writeThrough},
	{name: "DiscardGivesSpaceBack", run: discard},
	{name: "WriteZeroesLeavesZeros", run: writeZeroes},
	{name: "WithoutDiscardSpaceIsKept", run: noDiscard},
	{name: "ReadOnlyDeviceRefusesChanges", run: readOnly},
	{name: "StatsCount", run: stats},
	{name: "RequestsDoNotAllocate", run: noAllocation},

	// flight.go
	{name: "ManyRequestsInFlightAnsweredInAnyOrder", run: manyInFlight},
	{name: "MoreRequestsThanDepth", run: deeperThanDepth},
	{name: "NothingIsAnsweredBeforeTheBackendIsDone", run: notEarly},
	{name: "ErrorsAreVisible", run: errorsVisible},
	{name: "OneErrorIsOneError", run: errorsPass},
	{name: "VolumesOnOneLoopDoNotMix", run: twoVolumes},

	// life.go
	{name: "ResizeShowsAtOnce", run: resize, grows: true},
	{name: "ResizeUnderLoad", run: resizeUnderLoad, grows: true},
	{name: "BadOptionsAreRefused", run: badOptions},
	{name: "StopRefusesWhileInUse", run: stopInUse},
	{name: "StopFlushesTheKernelsCache", run: stopFlushes},
	{name: "StopThenStartAgain", run: startAgain},
	{name: "AbortFreesAStuckDevice", run: abort},
	{name: "AbortedNameCanBeUsedAgain", run: abortThenStart},
	{name: "AbortMeetsWhateverIsUnderWay", run: abortMeets},
	{name: "HandOverInOneProcess", run: handOver, outlives: true, alone: true},
	{name: "HandOverThatTakesTooLongGoesOn", run: handOverLate, outlives: true},
	{name: "FailedFenceLeavesTheDevice", run: fenceFails, outlives: true, alone: true},

	// restart.go
	{name: "KillsUnderLoadGoUnnoticed", run: killsUnderLoad, outlives: true},
	{name: "UpgradesUnderLoadRepeatNothing", run: upgradesUnderLoad, outlives: true},
	{name: "NothingIsServedBeforeTheFence", run: fenceFirst, outlives: true},
	{name: "RequestOfTheDeadIsDoneAgain", run: doneAgain, outlives: true},
	{name: "KilledWhileTheDeviceComesAndGoes", run: comeAndGo, outlives: true},
	{name: "ResizedWhileNobodyServed", run: resizedMeanwhile, outlives: true, grows: true},
	{name: "IOFailsWhenNobodyComes", run: nobodyComes, outlives: true},
}
