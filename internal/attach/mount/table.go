package mount

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Mounted is a line of the kernel's table.
type Mounted struct {
	Device   uint64 // its number, see unix.Major
	Root     string // what of the filesystem is mounted: "/", or for a bind mount a directory of it
	Dir      string
	ReadOnly bool
	Kind     string // of the filesystem, such as ext4
	Source   string
}

// List returns what is mounted, in this process's mount namespace, in the order in which
// it was.
func List() ([]Mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fault.Wrap("mount.List", err)
	}
	defer f.Close()
	return parse(f)
}

// parse reads the kernel's table (proc(5), mountinfo).
func parse(r io.Reader) (list []Mounted, err error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20) // an overlay may have very many layers
	for scanner.Scan() {
		if m, ok := parseLine(scanner.Text()); ok {
			list = append(list, m)
		}
	}
	return list, fault.Wrap("mount.List", scanner.Err())
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseLine reads "id parent major:minor root dir options [tags] - kind source super".
func parseLine(line string) (m Mounted, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 6 || len(right) < 2 {
		return m, false
	}
	major, minor, _ := strings.Cut(left[2], ":")
	a, aErr := strconv.ParseUint(major, 10, 32)
	b, bErr := strconv.ParseUint(minor, 10, 32)
	if aErr != nil || bErr != nil {
		return m, false
	}
	options := "," + left[5] + ","
	return Mounted{Device: unix.Mkdev(uint32(a), uint32(b)), Root: unescape.Replace(left[3]), Dir: unescape.Replace(left[4]),
		ReadOnly: strings.Contains(options, ",ro,"), Kind: right[0], Source: unescape.Replace(right[1])}, true
}

// At returns what is mounted at dir, the uppermost; nothing is at no path, which would be
// taken for the working directory: of a daemon, the machine's root.
func At(dir string) (m Mounted, found bool, err error) {
	if dir == "" {
		return m, false, nil
	}
	if dir, err = absolute(dir); err != nil {
		return m, false, fault.Wrap("mount.At", err)
	}
	list, err := List()
	for _, other := range list {
		if other.Dir == dir {
			m, found = other, true
		}
	}
	return m, found, err
}

// Of returns where a block device is mounted, by whichever name it is called.
func Of(device string) ([]Mounted, error) {
	number, err := numberOf(device)
	if err != nil {
		return nil, fault.Wrap("mount.Of", err)
	}
	return OfNumber(number)
}

// OfNumber returns where the block device of the number is mounted.
func OfNumber(number uint64) (found []Mounted, err error) {
	list, err := List()
	for _, m := range list {
		if m.Device == number {
			found = append(found, m)
		}
	}
	return found, err
}
