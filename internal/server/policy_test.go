package server

import (
	"strings"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestSchedulesThatNobodyCanFollowAreRefused(t *testing.T) {
	for _, tt := range []struct{ kind, at, says string }{
		{"hourly", "5", "spec.schedules[0].kind"},
		{"interval", "10s", "from 1 minute to 366 days"},
		{"daily", "24:00", "write the time as 23:30"},
		{"weekly", "someday@23:30", "sunday@23:30"},
		{"monthly", "32@23:30", "a day from 1 to 31"},
		{"cron", "61 * * * *", "numbers from 0 to 59"},
		{"cron", "0 0 30 2 *", "never comes"},
	} {
		err := checkPolicy(&v1.SnapshotPolicySpec{Schedules: []*v1.SnapshotSchedule{{Kind: tt.kind, At: tt.at}}})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %q: %v, want it to say %q", tt.kind, tt.at, err, tt.says)
		}
	}
	if err := checkPolicy(&v1.SnapshotPolicySpec{Schedules: []*v1.SnapshotSchedule{{Kind: "interval", At: "2d"}, {Kind: "cron", At: "*/5 8-18 * * mon-fri", Keep: 3}}}); err != nil {
		t.Errorf("a good policy is refused: %v", err)
	}
}
