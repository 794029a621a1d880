package host

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Unload lets go of what this process has mapped of its own program's file so far, and
// returns how many bytes may be. What is needed is mapped again as it is used, from memory
// as a rule.
//
// A program with as many packages as this one touches most of its pages before main, and
// most of those never again. While they are mapped they count as this process's memory, and
// the kernel is slower to give them to somebody else; a process that locks its memory would
// lock them too (docs/decisions/0016).
func Unload() (int64, error) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, fault.E("host.Unload", fault.KindOf(err), zeroVolume, err)
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, fault.E("host.Unload", fault.KindOf(err), zeroVolume, err)
	}
	spans, err := pristine(f, program)
	if err != nil {
		return 0, fault.E("host.Unload", fault.KindOf(err), zeroVolume, err)
	}
	sum := int64(0)
	for _, s := range spans {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_DONTNEED); errno == 0 { // locked ones stay
			sum += int64(s.to - s.from)
		}
	}
	return sum, nil
}

// span is addresses, the last one excluded.
type span struct{ from, to uintptr }

// pristine reads /proc/PID/smaps and returns where the program's file is mapped, for
// reading alone, and is as in the file everywhere: nothing is lost with such a mapping.
func pristine(smaps io.Reader, program string) (list []span, err error) {
	var at span // the mapping that the lines are about; zero: not one of those
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 0:
		case !strings.HasSuffix(f[0], ":"): // a mapping: FROM-TO rights offset device inode path
			at = span{}
			if len(f) == 6 && f[5] == program && strings.HasPrefix(f[1], "r-") {
				at = parseSpan(f[0])
			}
		case f[0] == "Anonymous:" && len(f) > 1 && f[1] == "0" && at.to > at.from:
			list = append(list, at)
		}
	}
	return list, lines.Err()
}

func parseSpan(text string) span {
	from, to, _ := strings.Cut(text, "-")
	a, err := strconv.ParseUint(from, 16, 64)
	b, err2 := strconv.ParseUint(to, 16, 64)
	if err != nil || err2 != nil {
		return span{}
	}
	return span{uintptr(a), uintptr(b)}
}
