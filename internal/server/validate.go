package server

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// invalid is the error of a field: what is wrong, and what to write instead.
func invalid(field, cure, format string, args ...any) error {
	err := fault.Errorf("server", fault.Invalid, field+": "+format, args...)
	return fault.WithField(fault.WithCure(err, cure), field)
}

const nameMax = 128

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// CheckName refuses what can't be the name of a node, or of anything else here. A node asks
// before it has anybody whom to ask.
func CheckName(name string) error { return checkName("name", name) }

// checkName refuses names that can't be in a path or a command line, or look like ids.
func checkName(field, name string) error {
	const cure = "use up to 128 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
	switch {
	case name == "":
		return invalid(field, cure, "it is empty")
	case len(name) > nameMax:
		return invalid(field, cure, "it has %d characters", len(name))
	case !nameForm.MatchString(name):
		return invalid(field, cure, "%q is no name", name)
	}
	if _, err := block.ParseVolumeID(name); err == nil {
		return invalid(field, "put a word before it", "%q could be taken for an id", name)
	}
	return nil
}

const (
	labelsMax     = 64
	labelKeyMax   = 253
	labelValueMax = 256
)

var labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`)

// checkLabels refuses labels that a selector could not name.
func checkLabels(field string, labels map[string]string) error {
	if len(labels) > labelsMax {
		return invalid(field, "give at most 64", "%d labels are too many", len(labels))
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value := labels[key]
		switch {
		case len(key) > labelKeyMax || !labelForm.MatchString(key):
			return invalid(field, "use letters, digits, dots, dashes, underscores and slashes", "%q is no name of a label", key)
		case len(value) > labelValueMax || value != "" && !labelForm.MatchString(value):
			return invalid(field+"."+key, "use letters, digits, dots, dashes, underscores and slashes", "%q is no value of a label", value)
		}
	}
	return nil
}

// relabel changes labels.
func relabel(labels, set map[string]string, remove []string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, set)
	for _, key := range remove {
		delete(out, key)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Limits of volumes.
const (
	sizeUnit    = block.Size
	sizeMin     = 1 << 20
	sizeMax     = 1 << 50
	replicasMax = 7
)

func checkSize(field string, size int64) error {
	switch {
	case size < sizeMin:
		return invalid(field, "give at least 1048576 (1 MiB)", "%d bytes are too few", size)
	case size > sizeMax:
		return invalid(field, "give at most 1 PiB", "%d bytes are too many", size)
	case size%sizeUnit != 0:
		return invalid(field, fmt.Sprintf("give %d", (size/sizeUnit+1)*sizeUnit), "%d is no multiple of 4096", size)
	}
	return nil
}

func checkReplicas(field string, n int32) error {
	if n < 1 || n > replicasMax {
		return invalid(field, "give a number from 1 to 7; 2 or 3 are usual", "%d replicas can't be", n)
	}
	return nil
}

func checkClass(field, class string) error {
	if class != "" && (len(class) > nameMax || !nameForm.MatchString(class)) {
		return invalid(field, "use high, medium, low, or a class that pools were given", "%q is no class", class)
	}
	return nil
}

func oneOf(field, value string, choices ...string) error {
	if value == "" || slices.Contains(choices, value) {
		return nil
	}
	return invalid(field, "use "+strings.Join(choices, ", ")+", or leave it out", "%q is not known", value)
}

func checkLimits(field string, l *v1.Limits) error {
	for name, n := range map[string]int64{"read_iops": l.GetReadIops(), "write_iops": l.GetWriteIops(),
		"read_bytes_per_second": l.GetReadBytesPerSecond(), "write_bytes_per_second": l.GetWriteBytesPerSecond()} {
		if n < 0 {
			return invalid(field+"."+name, "give a positive number, or 0 for no limit", "%d is negative", n)
		}
		if strings.HasSuffix(name, "second") && n > 0 && n < sizeUnit {
			return invalid(field+"."+name, "give at least 4096", "%d bytes a second are less than a block", n)
		}
	}
	return nil
}

func checkPlacement(field string, p *v1.Placement) error {
	if err := oneOf(field+".spread", p.GetSpread(), "node", "rack", "zone"); err != nil {
		return err
	}
	if err := oneOf(field+".group_policy", p.GetGroupPolicy(), "affinity", "anti-affinity"); err != nil {
		return err
	}
	switch {
	case p.GetGroupPolicy() != "" && p.GetGroup() == "":
		return invalid(field+".group", "name the group, or leave the policy out", "a group policy needs a group")
	case p.GetGroup() != "":
		return checkName(field+".group", p.Group)
	}
	return checkLabels(field+".node_labels", p.GetNodeLabels())
}

// checkVolumeSpec refuses what no volume can be. A field that is 0 or empty has its
// default by now.
func checkVolumeSpec(s *v1.VolumeSpec) error {
	for _, err := range []error{
		checkSize("spec.size_bytes", s.SizeBytes),
		checkReplicas("spec.replicas", s.Replicas),
		checkClass("spec.class", s.Class),
		oneOf("spec.filesystem", s.Filesystem, "ext4", "xfs"),
		checkLimits("spec.limits", s.Limits),
		checkPlacement("spec.placement", s.Placement),
	} {
		if err != nil {
			return err
		}
	}
	if s.SectorBytes != 512 && s.SectorBytes != 4096 {
		return invalid("spec.sector_bytes", "give 512 or 4096, or leave it out", "%d is no size of a sector", s.SectorBytes)
	}
	if s.Filesystem == "xfs" && s.SizeBytes < xfsMin {
		return invalid("spec.size_bytes", "give at least 300 MiB, or use ext4", "%d bytes are too few for xfs", s.SizeBytes)
	}
	return nil
}

// xfsMin is what mkfs.xfs wants at least.
const xfsMin = 300 << 20

// checkPath refuses what no filesystem can be mounted on.
func checkPath(field, p string) error {
	switch {
	case !path.IsAbs(p):
		return invalid(field, "give an absolute path, such as /mnt/db", "%q is not absolute", p)
	case path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) || len(p) > 4000:
		return invalid(field, "give a plain path, such as /mnt/db", "%q is no place for a mount", p)
	}
	return nil
}

// waitMax is the longest that a call may be asked to wait.
const waitMax = 10 * time.Minute

// checkWait returns how long to wait.
func checkWait(d *durationpb.Duration) (time.Duration, error) {
	wait := d.AsDuration()
	if d != nil && !d.IsValid() || wait < 0 || wait > waitMax {
		return 0, invalid("wait", "give a time up to 10m, and call again if that is not enough", "%s can't be waited for", wait)
	}
	return wait, nil
}
