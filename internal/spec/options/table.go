package options

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// sizeUnit is what sizes are rounded up to: the block of a volume.
const sizeUnit = 4096

type request = holdfastv1.CreateVolumeRequest

// all is every option. A new one gets an entry here, and is known everywhere.
var all = []Option{
	{Key: "name", Value: "db", Help: "the volume's name, where the text is all there is",
		set: func(r *request, v string) error { return word(&r.Name, v) }},
	{Key: "size", Value: "10Gi", Help: "how large the device is; it takes only what is written to it",
		set: func(r *request, v string) (err error) { r.Spec.SizeBytes, err = size(v); return err }},
	{Key: "repl", Aliases: []string{"replicas", "ha_level"}, Value: "2", Help: "copies, each on a node of its own: 1, 2 or 3 are usual",
		set: func(r *request, v string) (err error) { r.Spec.Replicas, err = count(v, 1, 7); return err }},
	{Key: "fs", Aliases: []string{"filesystem"}, Value: "ext4|xfs|none", Help: "the filesystem that is made at the first mount",
		set: func(r *request, v string) error { return oneOf(&r.Spec.Filesystem, v, "ext4", "xfs", "none") }},
	{Key: "class", Aliases: []string{"io_priority", "priority_io"}, Value: "high|medium|low", Help: "the class of the pools that the replicas are in",
		set: func(r *request, v string) error { return word(&r.Spec.Class, v) }},
	{Key: "nodes", Value: "n1,n2", Help: "the only nodes where replicas may be, by name or id",
		set: func(r *request, v string) error { return list(&place(r).Nodes, v) }},
	{Key: "zones", Value: "a,b", Help: "the only zones where replicas may be",
		set: func(r *request, v string) error { return list(&place(r).Zones, v) }},
	{Key: "racks", Value: "r1,r2", Help: "the only racks where replicas may be",
		set: func(r *request, v string) error { return list(&place(r).Racks, v) }},
	{Key: "node_labels", Value: "disk=fast,gpu=yes", Help: "labels that a node must have to get a replica",
		set: func(r *request, v string) (err error) { place(r).NodeLabels, err = labels(v); return err }},
	{Key: "prefer", Value: "n1", Help: "the node where the volume is used: the first replica goes there if it can",
		set: func(r *request, v string) error { return word(&place(r).Prefer, v) }},
	{Key: "spread", Value: "node|rack|zone", Help: "what no two replicas share",
		set: func(r *request, v string) error { return oneOf(&place(r).Spread, v, "node", "rack", "zone") }},
	{Key: "group", Aliases: []string{"fg"}, Value: "web", Help: "volumes that are placed with regard to each other",
		set: func(r *request, v string) error { return word(&place(r).Group, v) }},
	{Key: "group_policy", Value: "affinity|anti-affinity", Help: "whether a group's volumes are kept together or apart",
		set: func(r *request, v string) error { return oneOf(&place(r).GroupPolicy, v, "affinity", "anti-affinity") }},
	{Key: "snap_policy", Aliases: []string{"snapshot_policy", "snap_schedule", "snapshotschedule"}, Value: "nightly,hourly", Help: "the policies that take its snapshots, by name",
		set: func(r *request, v string) error { return list(&r.Spec.SnapshotPolicies, v) }},
	{Key: "iops", Value: "1000", Help: "reads a second, and writes a second, at most",
		set: func(r *request, v string) (err error) {
			n, err := rate(v)
			return first(err, limit(&limits(r).ReadIops, n), limit(&limits(r).WriteIops, n))
		}},
	{Key: "read_iops", Aliases: []string{"io_throttle_rd_iops"}, Value: "1000", Help: "reads a second, at most",
		set: func(r *request, v string) error { n, err := rate(v); return first(err, limit(&limits(r).ReadIops, n)) }},
	{Key: "write_iops", Aliases: []string{"io_throttle_wr_iops"}, Value: "1000", Help: "writes a second, at most",
		set: func(r *request, v string) error { n, err := rate(v); return first(err, limit(&limits(r).WriteIops, n)) }},
	{Key: "bandwidth", Value: "100MiB", Help: "bytes a second read, and bytes a second written, at most",
		set: func(r *request, v string) error {
			n, err := bandwidth(v)
			return first(err, limit(&limits(r).ReadBytesPerSecond, n), limit(&limits(r).WriteBytesPerSecond, n))
		}},
	{Key: "read_bandwidth", Value: "100MiB", Help: "bytes a second read, at most",
		set: func(r *request, v string) error {
			n, err := bandwidth(v)
			return first(err, limit(&limits(r).ReadBytesPerSecond, n))
		}},
	{Key: "write_bandwidth", Value: "100MiB", Help: "bytes a second written, at most",
		set: func(r *request, v string) error {
			n, err := bandwidth(v)
			return first(err, limit(&limits(r).WriteBytesPerSecond, n))
		}},
	{Key: "io_throttle_rd_bw", Value: "100", Help: "MB a second read, at most",
		set: func(r *request, v string) error {
			n, err := rate(v)
			return first(err, limit(&limits(r).ReadBytesPerSecond, n*1_000_000))
		}},
	{Key: "io_throttle_wr_bw", Value: "100", Help: "MB a second written, at most",
		set: func(r *request, v string) error {
			n, err := rate(v)
			return first(err, limit(&limits(r).WriteBytesPerSecond, n*1_000_000))
		}},
	{Key: "nodiscard", Value: "true|false", Help: "keep the space of what a filesystem deletes",
		set: func(r *request, v string) error { return truth(&r.Spec.NoDiscard, v) }},
	{Key: "sector", Aliases: []string{"sector_size"}, Value: "4096|512", Help: "the device's sector, in bytes",
		set: func(r *request, v string) error {
			var text string
			err := oneOf(&text, v, "4096", "512")
			n, _ := strconv.Atoi(text)
			r.Spec.SectorBytes = int32(n)
			return err
		}},
	{Key: "labels", Aliases: []string{"label"}, Value: "app=db,tier=1", Help: "the volume's labels",
		set: func(r *request, v string) (err error) { r.Labels, err = labels(v); return err }},
	{Key: "snapshot", Value: "db-monday", Help: "the snapshot that the volume begins with",
		set: func(r *request, v string) error { return word(&r.SourceSnapshot, v) }},
	{Key: "source", Aliases: []string{"parent"}, Value: "db", Help: "the volume that the volume is a clone of",
		set: func(r *request, v string) error { return word(&r.SourceVolume, v) }},
}

// foreign are keys that users bring along from other systems, and why there is no such
// thing here.
var foreign = map[string]string{
	"aggregation_level":                    "a volume isn't striped over several sets of replicas",
	"io_profile":                           "nothing has to be chosen",
	"io_profile_bkup_src":                  "nothing has to be chosen",
	"journal":                              "writes need no journal device",
	"sticky":                               "a deleted volume goes to the trash, from where it can be restored",
	"secure":                               "volumes are not encrypted by Holdfast yet",
	"secret_key":                           "volumes are not encrypted by Holdfast yet",
	"sharedv4":                             "a volume is attached to one node at a time",
	"shared":                               "a volume is attached to one node at a time",
	"auto_fstrim":                          "mount with the option discard, or run fstrim",
	"placement_strategy":                   "say nodes, zones, racks, spread or group",
	"storagepolicy":                        "say what it stands for",
	"queue_depth":                          "nothing has to be chosen",
	"best_effort_location_provisioning":    "a place that is named is kept to",
	"csi.storage.k8s.io/fstype":            "say fs",
	"openstorage.io/auth-secret-name":      "the driver has its own right to the API",
	"openstorage.io/auth-secret-namespace": "the driver has its own right to the API",
}

func place(r *request) *holdfastv1.Placement {
	if r.Spec.Placement == nil {
		r.Spec.Placement = &holdfastv1.Placement{}
	}
	return r.Spec.Placement
}

func limits(r *request) *holdfastv1.Limits {
	if r.Spec.Limits == nil {
		r.Spec.Limits = &holdfastv1.Limits{}
	}
	return r.Spec.Limits
}

// limit sets one limit, unless another key did.
func limit(to *int64, n int64) error {
	if *to != 0 && *to != n {
		return fmt.Errorf("another option sets the same limit to %d", *to)
	}
	*to = n
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func word(to *string, v string) error {
	if v == "" || strings.ContainsAny(v, ",; \t\n=") {
		return fmt.Errorf("%q is not one name", v)
	}
	*to = v
	return nil
}

func oneOf(to *string, v string, choices ...string) error {
	if !slices.Contains(choices, v) {
		return fmt.Errorf("%q is none of %s", v, strings.Join(choices, ", "))
	}
	*to = v
	return nil
}

// list reads words between commas or semicolons.
func list(to *[]string, v string) error {
	for item := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ';' }) {
		var one string
		if err := word(&one, strings.TrimSpace(item)); err != nil {
			return err
		}
		*to = append(*to, one)
	}
	if len(*to) == 0 {
		return fmt.Errorf("it is empty")
	}
	return nil
}

// labels reads key=value between commas or semicolons; key:value too, for texts in which
// the equals sign has another meaning.
func labels(v string) (map[string]string, error) {
	all := map[string]string{}
	for item := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ';' }) {
		at := strings.IndexAny(item, "=:")
		if at <= 0 {
			return nil, fmt.Errorf("%q is no key=value", item)
		}
		all[strings.TrimSpace(item[:at])] = strings.TrimSpace(item[at+1:])
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("it is empty")
	}
	return all, nil
}

func count(v string, low, high int32) (int32, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || int32(n) < low || int32(n) > high {
		return 0, fmt.Errorf("%q is not a number from %d to %d", v, low, high)
	}
	return int32(n), nil
}

// rateMax keeps sums and products of rates far from the ends of their type.
const rateMax = 1_000_000_000

func rate(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > rateMax {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", v, int64(rateMax))
	}
	return n, nil
}

func bandwidth(v string) (int64, error) {
	n, err := spec.ParseBytes(strings.TrimSuffix(v, "/s"))
	if err == nil && n < sizeUnit {
		err = fmt.Errorf("%q is less than a block of 4 KiB a second", v)
	}
	return n, err
}

func truth(to *bool, v string) error {
	switch v {
	case "true", "yes", "1":
		*to = true
	case "false", "no", "0":
		*to = false
	default:
		return fmt.Errorf("%q is neither true nor false", v)
	}
	return nil
}

// size reads a volume's size, and rounds it up to whole blocks.
func size(v string) (int64, error) {
	n, err := spec.ParseBytes(v)
	switch {
	case err != nil:
		return 0, err
	case n < 1<<20:
		return 0, fmt.Errorf("%q is less than 1 MiB; a bare number is bytes", v)
	case n > 1<<60:
		return 0, fmt.Errorf("%q is more than any volume can have", v)
	}
	return (n + sizeUnit - 1) / sizeUnit * sizeUnit, nil
}
