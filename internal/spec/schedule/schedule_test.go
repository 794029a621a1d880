package schedule_test

import (
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/spec/schedule"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	got, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTimesBeforeAndAfter(t *testing.T) {
	for _, tt := range []struct{ kind, at, now, before, after string }{
		{"interval", "15m", "2026-11-26 14:07:30", "2026-11-26 14:00:00", "2026-11-26 14:15:00"},
		{"interval", "15m", "2026-11-26 14:15:00", "2026-11-26 14:15:00", "2026-11-26 14:30:00"},
		{"interval", "2d", "1970-01-02 00:00:00", "1970-01-01 00:00:00", "1970-01-03 00:00:00"},
		{"daily", "23:30", "2026-11-26 14:00:00", "2026-11-25 23:30:00", "2026-11-26 23:30:00"},
		{"daily", "00:00", "2026-12-31 23:59:59", "2026-12-31 00:00:00", "2027-01-01 00:00:00"},
		{"weekly", "sunday@23:30", "2026-11-26 14:00:00", "2026-11-22 23:30:00", "2026-11-29 23:30:00"},
		{"weekly", "Thu@14:00", "2026-11-26 14:00:00", "2026-11-26 14:00:00", "2026-12-03 14:00:00"},
		{"monthly", "31@01:00", "2026-03-15 00:00:00", "2026-02-28 01:00:00", "2026-03-31 01:00:00"},
		{"monthly", "1@00:30", "2026-01-01 00:29:59", "2025-12-01 00:30:00", "2026-01-01 00:30:00"},
		{"cron", "*/20 8-10 * * mon-fri", "2026-11-27 10:45:00", "2026-11-27 10:40:00", "2026-11-30 08:00:00"},
		{"cron", "0 0 13 * 5", "2026-11-26 00:00:00", "2026-11-20 00:00:00", "2026-11-27 00:00:00"}, // the 13th, or a friday
		{"cron", "0 12 29 2 *", "2026-01-01 00:00:00", "2024-02-29 12:00:00", "2028-02-29 12:00:00"},
		{"cron", "5 4 * * 7", "2026-11-26 00:00:00", "2026-11-22 04:05:00", "2026-11-29 04:05:00"},
		{"cron", "30 23 1,15 jan,jul *", "2026-11-26 00:00:00", "2026-07-15 23:30:00", "2027-01-01 23:30:00"},
	} {
		s, err := schedule.Parse(tt.kind, tt.at)
		if err != nil {
			t.Errorf("%s %s: %v", tt.kind, tt.at, err)
			continue
		}
		if got := s.Before(at(t, tt.now)); !got.Equal(at(t, tt.before)) {
			t.Errorf("%s %s: before %s comes %v, want %s", tt.kind, tt.at, tt.now, got, tt.before)
		}
		if got := s.After(at(t, tt.now)); !got.Equal(at(t, tt.after)) {
			t.Errorf("%s %s: after %s comes %v, want %s", tt.kind, tt.at, tt.now, got, tt.after)
		}
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for _, tt := range [][2]string{{"interval", "10s"}, {"interval", "x"}, {"interval", "400d"}, {"interval", "90.5s"}, {"daily", "24:00"}, {"daily", "7"}, {"daily", "7:5"},
		{"weekly", "23:30"}, {"weekly", "someday@1:00"}, {"monthly", "0@1:00"}, {"monthly", "32@1:00"}, {"cron", "* * * *"}, {"cron", "60 * * * *"},
		{"cron", "5-1 * * * *"}, {"cron", "*/0 * * * *"}, {"cron", "0 0 30 2 *"}, {"hourly", "5"}, {"cron", "0 0 * foo *"}} {
		if _, err := schedule.Parse(tt[0], tt[1]); err == nil {
			t.Errorf("%s %q was taken", tt[0], tt[1])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range [][2]string{{"interval", "15m"}, {"daily", "23:30"}, {"weekly", "sunday@23:30"}, {"monthly", "31@00:00"}, {"cron", "*/20 8-10 * * mon-fri"}, {"cron", "0 0 13 2,3 5"}} {
		f.Add(seed[0], seed[1], int64(1795701600))
	}
	f.Fuzz(func(t *testing.T, kind, text string, unix int64) {
		s, err := schedule.Parse(kind, text)
		if err != nil {
			return
		}
		now := time.Unix(unix%(1<<33), 0).UTC()
		before, after := s.Before(now), s.After(now)
		if before.After(now) || !after.After(now) && !after.IsZero() {
			t.Fatalf("%s %q: around %v come %v and %v", kind, text, now, before, after)
		}
		if !after.IsZero() && !s.Before(after).Equal(after) {
			t.Fatalf("%s %q: %v comes, and does not", kind, text, after)
		}
		if !before.IsZero() && !after.IsZero() && !s.After(before).Equal(after) {
			t.Fatalf("%s %q: between %v and %v comes %v", kind, text, before, after, s.After(before))
		}
	})
}
