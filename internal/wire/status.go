package wire

import (
	"strings"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// statuses are the numbers of the kinds of fault on the wire: package fault may order
// its kinds anew, peers of other builds would not know. New kinds get the next number.
var statuses = map[fault.Kind]uint8{
	fault.Unknown:      1,
	fault.Invalid:      2,
	fault.NotFound:     3,
	fault.Exists:       4,
	fault.Precondition: 5,
	fault.Busy:         6,
	fault.NoSpace:      7,
	fault.Corrupt:      8,
	fault.Media:        9,
	fault.Fenced:       10,
	fault.Unavailable:  11,
	fault.Timeout:      12,
	fault.Unsupported:  13,
	fault.Canceled:     14,
	fault.Denied:       15,
	fault.Internal:     16,
}

// faults is statuses the other way round.
var faults = func() map[uint8]fault.Kind {
	m := make(map[uint8]fault.Kind, len(statuses))
	for kind, status := range statuses {
		m[status] = kind
	}
	return m
}()

// Clip makes s fit a text field: valid UTF-8 of at most TextMax bytes.
func Clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= TextMax {
		return s
	}
	end := TextMax
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// FailOf returns the reply that says err: its kind and its text.
func FailOf(err error) Fail {
	return Fail{Status: fault.KindOf(err), Text: Clip(err.Error())}
}

// Err returns what m says as an error of the kind that it names, about the volume.
func (m *Fail) Err(op string, volume block.VolumeID) error {
	return fault.E(op, m.Status, volume, said{text: m.Text, kind: m.Status})
}

// Err returns what m says as an error of the kind that it names.
func (m *Refuse) Err(op string) error {
	return fault.E(op, m.Status, block.VolumeID{}, said{text: "refused by the peer: " + m.Text, kind: m.Status})
}

// said is a text that came from a peer.
type said struct {
	text string
	kind fault.Kind
}

// Error returns the text, or the kind's name where there is none.
func (s said) Error() string {
	if s.text == "" {
		return s.kind.String()
	}
	return s.text
}
