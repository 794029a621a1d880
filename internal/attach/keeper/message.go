package keeper

import (
	"encoding/json"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// The conversation, on a Unix socket of type SOCK_SEQPACKET: the client sends a packet
// and gets one, both JSON, both with files where the verb has some (SCM_RIGHTS). Fields
// that a side does not know are ignored.
//
//	hello    min_version, max_version, role: "data" or "tool"; answered when admitted
//	put      entry, files
//	get      name; the answer has entry and files
//	release  name
//	remove   name
//	list     is answered with one packet for each entry, and one without
//
// Every answer has an error and its kind if the verb failed.
//
// Version history. Add a line, raise maxVersion; a keeper that runs is as old as the
// devices that it holds, so clients speak every version that a keeper in the field may.
//
//	1  first
const (
	minVersion = 1
	maxVersion = 1
)

// messageBytesMax is the longest packet.
const messageBytesMax = 64 << 10

var noVolume block.VolumeID

type request struct {
	Verb       string `json:"verb"`
	MinVersion int    `json:"min_version,omitempty"`
	MaxVersion int    `json:"max_version,omitempty"`
	Role       string `json:"role,omitempty"`
	Name       string `json:"name,omitempty"`
	Entry      *Entry `json:"entry,omitempty"`
}

type answer struct {
	Version int    `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"` // of the keeper
	Entry   *Entry `json:"entry,omitempty"`
	Error   string `json:"error,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the error, by name: numbers differ between builds
}

// The roles of clients.
const (
	roleData = "data" // serves devices
	roleTool = "tool" // looks, and removes what nobody serves
)

// send sends v as one packet with files, which stay the caller's.
func send(c *net.UnixConn, v any, files []int) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > messageBytesMax {
		return fault.Errorf("keeper.send", fault.Invalid, "a packet of %d bytes, more than %d", len(raw), messageBytesMax)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err = c.WriteMsgUnix(raw, rights, nil)
	return err
}

// receive receives one packet into v, and returns the files that came with it. The end
// of the connection is net.ErrClosed or another error that is no *fault.Error; a packet
// that can't be read is fault.Invalid.
func receive(c *net.UnixConn, v any) ([]int, error) {
	raw := make([]byte, messageBytesMax)
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
		err = fault.Errorf("keeper.receive", fault.Invalid, "a packet is too long, or has too many files")
	default:
		if err = json.Unmarshal(raw[:n], v); err != nil {
			err = fault.E("keeper.receive", fault.Invalid, noVolume, err)
		}
	}
	if err != nil {
		closeEach(files)
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
			closeEach(files)
			return fault.E("keeper.receive", fault.Busy, noVolume, err)
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
		return nil, fault.E("keeper.receive", fault.Invalid, noVolume, err)
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

// failure returns err as an answer.
func failure(err error) answer {
	what, _ := fault.Describe(err)
	return answer{Error: what, Kind: fault.KindOf(err).String(), PID: os.Getpid()}
}

// err returns what failure was given.
func (a *answer) err() error {
	if a.Error == "" && a.Kind == "" {
		return nil
	}
	kind := fault.Internal
	for kind > fault.Unknown && kind.String() != a.Kind {
		kind--
	}
	return fault.Errorf("keeper", kind, "%s", a.Error)
}
