// Package schedule reads when something is to happen again and again, and knows the times
// before and after another. All times are UTC.
//
//	interval  15m, 6h, 2d                 counted from the first of January 1970
//	daily     23:30
//	weekly    sunday@23:30
//	monthly   1@23:30                     a day that a month lacks is its last
//	cron      30 23 * * 1-5               minute, hour, day, month, day of the week
package schedule

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// The kinds of schedules.
const (
	Interval = "interval"
	Daily    = "daily"
	Weekly   = "weekly"
	Monthly  = "monthly"
	Cron     = "cron"
)

// Kinds are all kinds, the simplest first.
var Kinds = []string{Interval, Daily, Weekly, Monthly, Cron}

// Schedule is a rhythm. Make one with Parse.
type Schedule struct {
	every                                time.Duration // of an interval
	last                                 int           // day of the month, clamped to its last; 0 when days say
	minutes, hours, days, months, weekly uint64        // bits
	anyDay, anyWeekday                   bool          // days and weekly: one of them says nothing
}

// Bounds of an interval. A shorter one would be spent on nothing but snapshots.
const (
	IntervalMin = time.Minute
	IntervalMax = 366 * 24 * time.Hour
)

// Keep returns how many snapshots of a schedule are kept when nobody says.
func Keep(kind string) int {
	switch kind {
	case Daily:
		return 7
	case Monthly:
		return 12
	}
	return 5
}

// Parse reads a schedule.
func Parse(kind, at string) (Schedule, error) {
	s, err := parse(kind, strings.TrimSpace(at))
	if err != nil {
		return Schedule{}, fmt.Errorf("the %s schedule %q: %w", kind, at, err)
	}
	if s.every == 0 && s.After(time.Unix(0, 0)).IsZero() {
		return Schedule{}, fmt.Errorf("the %s schedule %q never comes", kind, at)
	}
	return s, nil
}

const every = ^uint64(0)

func parse(kind, at string) (s Schedule, err error) {
	switch kind {
	case Interval:
		s.every, err = interval(at)
		return s, err
	case Daily:
		return clock(Schedule{days: every, months: every, weekly: every, anyDay: true, anyWeekday: true}, at)
	case Weekly:
		day, rest, _ := strings.Cut(at, "@")
		n, ok := name(weekdays, day)
		if !ok {
			return s, fmt.Errorf("write it as sunday@23:30")
		}
		return clock(Schedule{days: every, months: every, weekly: 1 << n, anyDay: true}, rest)
	case Monthly:
		day, rest, _ := strings.Cut(at, "@")
		n, err := strconv.Atoi(day)
		if err != nil || n < 1 || n > 31 {
			return s, fmt.Errorf("write it as 1@23:30, with a day from 1 to 31")
		}
		return clock(Schedule{last: n, months: every}, rest)
	case Cron:
		return cron(at)
	}
	return s, fmt.Errorf("there is no such kind; use %s", strings.Join(Kinds, ", "))
}

// interval reads a duration, in which a day may be d.
func interval(at string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(at, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > 366 {
			return 0, fmt.Errorf("write it as 15m, 6h or 2d")
		}
		at = strconv.Itoa(24*n) + "h"
	}
	d, err := time.ParseDuration(at)
	if err != nil {
		return 0, fmt.Errorf("write it as 15m, 6h or 2d")
	}
	if d < IntervalMin || d > IntervalMax || d%time.Second != 0 {
		return 0, fmt.Errorf("an interval has from 1 minute to 366 days, in whole seconds")
	}
	return d, nil
}

// clock reads the time of the day.
func clock(s Schedule, at string) (Schedule, error) {
	hour, minute, ok := strings.Cut(at, ":")
	h, err1 := strconv.Atoi(hour)
	m, err2 := strconv.Atoi(minute)
	if !ok || err1 != nil || err2 != nil || h < 0 || h > 23 || m < 0 || m > 59 || len(minute) != 2 {
		return s, fmt.Errorf("write the time as 23:30")
	}
	s.hours, s.minutes = 1<<h, 1<<m
	return s, nil
}

var (
	weekdays = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}
	months   = []string{"", "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"}
)

// name finds a name by itself or its first three letters.
func name(names []string, text string) (int, bool) {
	text = strings.ToLower(text)
	for i, n := range names {
		if n != "" && (text == n || text == n[:3]) {
			return i, true
		}
	}
	return 0, false
}

// cron reads the five fields.
func cron(at string) (s Schedule, err error) {
	f := strings.Fields(at)
	if len(f) != 5 {
		return s, fmt.Errorf("write five fields: minute, hour, day of the month, month, day of the week")
	}
	for i, x := range []struct {
		into     *uint64
		from, to int
		names    []string
	}{{&s.minutes, 0, 59, nil}, {&s.hours, 0, 23, nil}, {&s.days, 1, 31, nil}, {&s.months, 1, 12, months}, {&s.weekly, 0, 7, weekdays}} {
		if *x.into, err = field(f[i], x.from, x.to, x.names); err != nil {
			return s, fmt.Errorf("%q: %w", f[i], err)
		}
	}
	if s.weekly&(1<<7) != 0 {
		s.weekly |= 1 // 7 is sunday too
	}
	s.anyDay, s.anyWeekday = strings.HasPrefix(f[2], "*"), strings.HasPrefix(f[4], "*")
	return s, nil
}

// field reads a list of *, numbers and ranges, each with a step or without.
func field(text string, from, to int, names []string) (set uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		low, high, step := from, to, 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > to {
				return 0, fmt.Errorf("a step is a number from 1 to %d", to)
			}
		}
		if span != "*" {
			lowText, highText, ranged := strings.Cut(span, "-")
			if low, err = value(lowText, from, to, names); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if high, err = value(highText, from, to, names); err != nil {
					return 0, err
				}
			case !stepped:
				high = low
			}
		}
		if low > high {
			return 0, fmt.Errorf("a range goes from the lower to the higher")
		}
		for i := low; i <= high; i += step {
			set |= 1 << i
		}
	}
	return set, nil
}

func value(text string, from, to int, names []string) (int, error) {
	if n, ok := name(names, text); ok {
		return n, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < from || n > to {
		return 0, fmt.Errorf("want numbers from %d to %d", from, to)
	}
	return n, nil
}

// onDay reports whether the schedule comes on a day.
func (s Schedule) onDay(t time.Time) bool {
	if s.months&(1<<int(t.Month())) == 0 {
		return false
	}
	if s.last > 0 {
		end := time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
		return t.Day() == min(s.last, end)
	}
	day, weekday := s.days&(1<<t.Day()) != 0, s.weekly&(1<<int(t.Weekday())) != 0
	if s.anyDay || s.anyWeekday {
		return day && weekday
	}
	return day || weekday // as cron has always done
}

// daysMax is how far is looked: the 29th of February on a given weekday comes every 28
// years, and 1900 and 2100 have none.
const daysMax = 41 * 366

// After returns the first time that is later than t; zero when there is none.
func (s Schedule) After(t time.Time) time.Time {
	t = t.UTC()
	if s.every > 0 {
		return s.floor(t).Add(s.every)
	}
	t = t.Truncate(time.Minute).Add(time.Minute)
	hour, minute := t.Hour(), t.Minute()
	for day, n := midnight(t), 0; n < daysMax; day, n, hour, minute = day.AddDate(0, 0, 1), n+1, 0, 0 {
		if !s.onDay(day) {
			continue
		}
		for h := hour; h < 24; h, minute = h+1, 0 {
			if s.hours&(1<<h) == 0 {
				continue
			}
			if m := bits.TrailingZeros64(s.minutes >> minute << minute); m < 60 {
				return day.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute)
			}
		}
	}
	return time.Time{}
}

// Before returns the last time that is not later than t; zero when there is none.
func (s Schedule) Before(t time.Time) time.Time {
	t = t.UTC()
	if s.every > 0 {
		return s.floor(t)
	}
	hour, minute := t.Hour(), t.Minute()
	for day, n := midnight(t), 0; n < daysMax; day, n, hour, minute = day.AddDate(0, 0, -1), n+1, 23, 59 {
		if !s.onDay(day) {
			continue
		}
		for h := hour; h >= 0; h, minute = h-1, 59 {
			if s.hours&(1<<h) == 0 {
				continue
			}
			if m := bits.Len64(s.minutes&(1<<(minute+1)-1)) - 1; m >= 0 {
				return day.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute)
			}
		}
	}
	return time.Time{}
}

// floor is the interval's time at or before t.
func (s Schedule) floor(t time.Time) time.Time {
	seconds := int64(s.every / time.Second)
	n := t.Unix()
	rest := n % seconds
	if rest < 0 {
		rest += seconds
	}
	return time.Unix(n-rest, 0).UTC()
}

func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}
