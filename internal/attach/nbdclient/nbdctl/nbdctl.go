// Package nbdctl tells the kernel's NBD driver to make devices, to go on with another
// connection, and to take devices away (linux/nbd-netlink.h).
package nbdctl

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

var ne = binary.NativeEndian

// Commands of the family "nbd", and their attributes.
const (
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadTimeout = 8
	attrIdentifier  = 10
	sockItem        = 1
	sockFD          = 1
)

// Of generic netlink.
const (
	controllerID   = 0x10
	cmdGetFamily   = 3
	attrFamilyID   = 1
	attrFamilyName = 2
	nested         = 1 << 15
)

// Device says what a device is, or becomes.
type Device struct {
	Index       int    // of /dev/nbdN; for Connect, -1 is any
	Size        int64  // bytes
	BlockSize   int    // bytes
	ServerFlags uint64 // the protocol's flags of an export
	// Timeout is how long a request may take before it is sent again, DeadTimeout how long
	// I/O waits for another connection before it fails. Both are whole seconds.
	Timeout, DeadTimeout time.Duration
	Identifier           string // the kernel keeps it; who goes on must know it
}

// Path returns the name of device n.
func Path(n int) string { return fmt.Sprintf("/dev/nbd%d", n) }

// Available returns nil, or why this machine has no NBD driver.
func Available() error {
	s, err := dial()
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// Connect makes a device of what the server behind a connected socket has, and returns
// its number. The kernel keeps the socket.
func Connect(d Device, socket int) (int, error) {
	s, err := dial()
	if err != nil {
		return -1, err
	}
	defer s.close()
	reply, err := s.do(cmdConnect, d.attributes(socket))
	if err != nil {
		return -1, fault.Errorf("nbdctl.Connect", fault.KindOf(err), "make an NBD device: %w", err)
	}
	index, ok := find(reply, attrIndex)
	if !ok || len(index) < 4 {
		return -1, fault.Errorf("nbdctl.Connect", fault.Internal, "the kernel did not say which device it made")
	}
	return int(ne.Uint32(index)), nil
}

// Reconfigure has a device go on with another connection, or, without one (-1), with
// another size only.
func Reconfigure(d Device, socket int) error {
	s, err := dial()
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.do(cmdReconfigure, d.attributes(socket)); err != nil {
		return fault.Errorf("nbdctl.Reconfigure", fault.KindOf(err), "%s: %w", Path(d.Index), err)
	}
	return nil
}

// Disconnect takes a device away: what was not answered fails. One that is not there is
// taken away.
func Disconnect(index int) error {
	s, err := dial()
	if err != nil {
		return err
	}
	defer s.close()
	_, err = s.do(cmdDisconnect, number32(nil, attrIndex, uint32(index)))
	if err == syscall.EINVAL || err == syscall.ENXIO { // not set up
		return nil
	}
	if err != nil {
		return fault.Errorf("nbdctl.Disconnect", fault.KindOf(err), "%s: %w", Path(index), err)
	}
	return nil
}

// List returns the devices that are set up with an identifier, by number.
func List() map[int]string {
	list := map[int]string{}
	names, _ := filepath.Glob("/sys/block/nbd*/backend") // the pattern is good
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.Split(name, "/")[3], "nbd"))
		raw, readErr := os.ReadFile(name)
		if err == nil && readErr == nil {
			list[n] = strings.TrimSpace(string(raw))
		}
	}
	return list
}

func (d Device) attributes(socket int) (b []byte) {
	if d.Index >= 0 {
		b = number32(b, attrIndex, uint32(d.Index))
	}
	b = number64(b, attrSize, uint64(d.Size))
	b = number64(b, attrBlockSize, uint64(d.BlockSize))
	b = number64(b, attrServerFlags, d.ServerFlags)
	b = number64(b, attrTimeout, uint64(d.Timeout/time.Second))
	b = number64(b, attrDeadTimeout, uint64(d.DeadTimeout/time.Second))
	b = attribute(b, attrIdentifier, append([]byte(d.Identifier), 0))
	if socket >= 0 {
		item := attribute(nil, nested|sockItem, number32(nil, sockFD, uint32(socket)))
		b = attribute(b, nested|attrSockets, item)
	}
	return b
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = ne.AppendUint16(b, uint16(4+len(value)))
	b = ne.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func number32(b []byte, kind uint16, v uint32) []byte {
	return attribute(b, kind, ne.AppendUint32(nil, v))
}

func number64(b []byte, kind uint16, v uint64) []byte {
	return attribute(b, kind, ne.AppendUint64(nil, v))
}

// find returns the value of an attribute.
func find(b []byte, kind uint16) (value []byte, ok bool) {
	for len(b) >= 4 {
		n := int(ne.Uint16(b))
		if n < 4 || n > len(b) {
			return nil, false
		}
		if ne.Uint16(b[2:])&^nested == kind {
			return b[4:n], true
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil, false
}

// session is a netlink socket, and the family's number.
type session struct {
	fd     int
	family uint16
}

func dial() (*session, error) {
	fail := func(err error) (*session, error) {
		return nil, fault.WithCure(fault.Errorf("nbdctl", fault.Unsupported, "no NBD: %w", err),
			"load the kernel's driver (modprobe nbd), run as root, or use another front end")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return fail(err)
	}
	s := &session{fd: fd, family: controllerID}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	var reply []byte
	if err == nil {
		reply, err = s.do(cmdGetFamily, attribute(nil, attrFamilyName, []byte("nbd\x00")))
	}
	if err != nil {
		s.close()
		return fail(err)
	}
	id, ok := find(reply, attrFamilyID)
	if !ok || len(id) < 2 {
		s.close()
		return fail(syscall.ENOENT)
	}
	s.family = ne.Uint16(id)
	return s, nil
}

func (s *session) close() { _ = unix.Close(s.fd) }

const headerBytes = 20 // of netlink and of generic netlink

// do sends a command, and returns the attributes of the answer, if there is one before
// the acknowledgement.
func (s *session) do(cmd uint8, attributes []byte) (reply []byte, err error) {
	m := make([]byte, headerBytes, headerBytes+len(attributes))
	ne.PutUint32(m[0:], uint32(headerBytes+len(attributes)))
	ne.PutUint16(m[4:], s.family)
	ne.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m[16], m[17] = cmd, 1
	if err := unix.Sendto(s.fd, append(m, attributes...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	b := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(s.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		for rest := b[:n]; len(rest) >= headerBytes; {
			length := int(ne.Uint32(rest))
			if length < headerBytes || length > len(rest) {
				return nil, syscall.EBADMSG
			}
			if ne.Uint16(rest[4:]) == unix.NLMSG_ERROR {
				if no := -int32(ne.Uint32(rest[16:])); no != 0 {
					return nil, syscall.Errno(no)
				}
				return reply, nil
			}
			reply = append([]byte(nil), rest[headerBytes:length]...)
			rest = rest[min(len(rest), (length+3)&^3):]
		}
	}
}
