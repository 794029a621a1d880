// Package packet is how the processes around a device talk: JSON in packets, with open
// files, over a Unix socket of type SOCK_SEQPACKET. Fields that a side does not know are
// ignored.
package packet

import (
	"encoding/json"
	"net"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Limits of a packet.
const (
	BytesMax = 64 << 10
	FilesMax = 16
)

var noVolume block.VolumeID

// Failure is an error as it travels: by the name of its kind, because numbers differ
// between builds. The zero value is none.
type Failure struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Cure  string `json:"cure,omitempty"`
}

// Fail returns err as a Failure.
func Fail(err error) Failure {
	if err == nil {
		return Failure{}
	}
	what, cure := fault.Describe(err)
	return Failure{Error: what, Kind: fault.KindOf(err).String(), Cure: cure}
}

// Err returns what Fail was given, as far as it travels.
func (f Failure) Err(op string) error {
	if f == (Failure{}) {
		return nil
	}
	kind := fault.Internal
	for kind > fault.Unknown && kind.String() != f.Kind {
		kind--
	}
	err := fault.Errorf(op, kind, "%s", f.Error)
	if f.Cure != "" {
		err = fault.WithCure(err, f.Cure)
	}
	return err
}

// Send sends v as one packet with files, which stay the caller's.
func Send(c *net.UnixConn, v any, files []int) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > BytesMax {
		return fault.Errorf("packet.Send", fault.Invalid, "a packet of %d bytes, more than %d", len(raw), BytesMax)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err = c.WriteMsgUnix(raw, rights, nil)
	return err
}

// Receive receives one packet into v, and returns the files that came with it, in order
// and with descriptors of ascending numbers. The end of the connection is net.ErrClosed
// or another error that is no *fault.Error; a packet that can't be read is
// fault.Invalid.
func Receive(c *net.UnixConn, v any) ([]int, error) {
	raw := make([]byte, BytesMax)
	rights := make([]byte, unix.CmsgSpace(4*(FilesMax+1)))
	n, oob, flags, _, err := c.ReadMsgUnix(raw, rights)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(rights[:oob])
	switch {
	case n == 0 && oob == 0:
		return nil, net.ErrClosed
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = fault.Errorf("packet.Receive", fault.Invalid, "a packet is too long, or has too many files")
	default:
		if err = json.Unmarshal(raw[:n], v); err != nil {
			err = fault.E("packet.Receive", fault.Invalid, noVolume, err)
		}
	}
	if err != nil {
		CloseAll(files)
		return nil, err
	}
	return files, ascend(files)
}

// ascend gives the files descriptors of ascending numbers, in place: when a process is
// killed the kernel closes its files by number, and their order matters then as it
// does otherwise.
func ascend(files []int) error {
	for i := 1; i < len(files); i++ {
		if files[i] > files[i-1] {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(files[i]), unix.F_DUPFD_CLOEXEC, files[i-1]+1)
		if err != nil {
			CloseAll(files)
			return fault.E("packet.Receive", fault.Busy, noVolume, err)
		}
		_ = unix.Close(files[i]) // the copy lives
		files[i] = fd
	}
	return nil
}

// filesOf returns the descriptors in control messages.
func filesOf(rights []byte) (files []int, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fault.E("packet.Receive", fault.Invalid, noVolume, err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, say
		}
		files = append(files, fds...)
	}
	return files, nil
}

// CloseAll closes files, in their order.
func CloseAll(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd) // nothing was written through it
	}
}
