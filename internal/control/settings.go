package control

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// settings are the cluster's settings with their defaults.
type settings struct {
	repairDelay          time.Duration
	rebuildsMax          int
	rebuildsPerNodeMax   int
	repairDownPercentMax int
	overcommitPercent    int32
	trashKeep            time.Duration
	orphanGrace          time.Duration
	eventsKeep           time.Duration
	eventsMax            int
	operationsKeep       time.Duration
	snapshotsMax         int
}

// Defaults are the settings of which nobody has said anything.
func Defaults() *v1.ClusterSettings {
	number := func(n int32) *int32 { return &n }
	return &v1.ClusterSettings{
		RepairDelay: durationpb.New(10 * time.Minute), RebuildsMax: number(8), RebuildsPerNodeMax: number(2), RepairDownPercentMax: number(34),
		OvercommitPercent: number(200), TrashKeep: durationpb.New(24 * time.Hour), OrphanGrace: durationpb.New(time.Hour),
		EventsKeep: durationpb.New(7 * 24 * time.Hour), EventsMax: number(10000), OperationsKeep: durationpb.New(7 * 24 * time.Hour),
		SnapshotsPerVolumeMax: 256,
	}
}

// settingsOf fills what is absent with the defaults.
func settingsOf(s *v1.ClusterSettings) settings {
	d := Defaults()
	duration := func(set, otherwise *durationpb.Duration) time.Duration {
		if set == nil {
			return otherwise.AsDuration()
		}
		return set.AsDuration()
	}
	number := func(set, otherwise *int32) int {
		if set == nil {
			return int(*otherwise)
		}
		return int(*set)
	}
	if s == nil {
		s = &v1.ClusterSettings{}
	}
	out := settings{
		repairDelay: duration(s.RepairDelay, d.RepairDelay), rebuildsMax: number(s.RebuildsMax, d.RebuildsMax),
		rebuildsPerNodeMax: number(s.RebuildsPerNodeMax, d.RebuildsPerNodeMax), repairDownPercentMax: number(s.RepairDownPercentMax, d.RepairDownPercentMax),
		overcommitPercent: int32(number(s.OvercommitPercent, d.OvercommitPercent)), trashKeep: duration(s.TrashKeep, d.TrashKeep),
		orphanGrace: duration(s.OrphanGrace, d.OrphanGrace), eventsKeep: duration(s.EventsKeep, d.EventsKeep), eventsMax: number(s.EventsMax, d.EventsMax),
		operationsKeep: duration(s.OperationsKeep, d.OperationsKeep), snapshotsMax: int(d.SnapshotsPerVolumeMax),
	}
	if s.SnapshotsPerVolumeMax > 0 {
		out.snapshotsMax = int(s.SnapshotsPerVolumeMax)
	}
	return out
}
