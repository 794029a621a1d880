package house

import (
	"strings"
	"testing"
)

// rule is something that every file of the repository must keep.
type rule struct {
	name   string
	reason string
	check  func(f *file) []string // what is wrong, as "line: what"
}

var rules = []rule{
	{"imports point down", "or one room becomes everyone's neighbour, and none can be tested alone", importsPointDown},
	{"deciders are pure", "the simulator runs them by seed: a clock, goroutine, lock, socket or file in one makes a seed worthless", decidersArePure},
	{"goroutines have workers", "a goroutine below the workers has no owner, no limit and no way to stop", goroutinesHaveWorkers},
	{"kinds decide", "a message is for people and may be reworded; code asks fault.Is or errors.Is", kindsDecide},
	{"tests do not sleep", "a sleep is either too short, and the test fails by luck, or too long", testsDoNotSleep},
	{"skips have a reason", "as root nothing is skipped; a test that never runs proves nothing", skipsHaveReason},
	{"exported names are documented", "the doc comment is where units, errors and concurrency rules live", exportedDocumented},
	{"few parameters", "seven arguments in a row get swapped; a struct names them", fewParameters},
	{"files are short", "a long file hides a noun that deserves its own", filesAreShort},
	{"no leftovers", "work is done or not begun, and nobody else has our machine", noLeftovers},
}

func TestRules(t *testing.T) {
	files := sources(t)
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			for _, f := range files {
				for _, wrong := range r.check(f) {
					t.Errorf("%s:%s (%s)", f.path, wrong, r.reason)
				}
			}
		})
	}
}
