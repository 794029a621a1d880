// Package fault says what went wrong as a kind that every door can translate:
// errno for the kernel, codes for gRPC, Connect and CSI, exit codes for the shell.
//
// Kinds decide, text never does: code asks [Is], people read [Error.Error].
package fault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/block"
)

// Kind classes an error by what the caller can do about it.
type Kind uint8

// The kinds. Their order is not meaningful and not stored anywhere.
const (
	Unknown      Kind = iota // nothing is known; treated as Internal
	Invalid                  // the request is wrong and will stay wrong
	NotFound                 // the thing does not exist
	Exists                   // the thing exists already and differs from what was asked
	Precondition             // the thing is not in a state that allows this
	Busy                     // somebody else holds it; try again later
	NoSpace                  // a pool or a limit is full; free some, then try again
	Corrupt                  // bytes are there, but are not what was written
	Media                    // the device failed to read, write or flush
	Fenced                   // the right to do this was lost to a newer owner
	Unavailable              // a needed party can't be reached now; try again
	Timeout                  // no answer in time; the outcome is unknown
	Unsupported              // this build, kernel or peer can't do it
	Canceled                 // the caller gave up
	Denied                   // the caller may not do this
	Internal                 // a bug of ours
	kinds
)

var names = [kinds]string{"unknown", "invalid", "not found", "already exists", "precondition", "busy",
	"no space", "corrupt", "media error", "fenced", "unavailable", "timeout", "unsupported",
	"canceled", "denied", "internal"}

// String names the kind.
func (k Kind) String() string {
	if k < kinds {
		return names[k]
	}
	return names[Unknown]
}

var errnos = [kinds]syscall.Errno{syscall.EIO, syscall.EINVAL, syscall.ENOENT, syscall.EEXIST, syscall.EINVAL,
	syscall.EBUSY, syscall.ENOSPC, syscall.EIO, syscall.EIO, syscall.EIO, syscall.EAGAIN, syscall.ETIMEDOUT,
	syscall.EOPNOTSUPP, syscall.EINTR, syscall.EPERM, syscall.EIO}

// Errno returns what a block device answers for the kind.
func (k Kind) Errno() syscall.Errno {
	if k < kinds {
		return errnos[k]
	}
	return syscall.EIO
}

// ExitCode returns the exit status of a command that failed with the kind: 1 for
// what has no better number, then fixed numbers that scripts may rely on.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return 2
	case NotFound:
		return 3
	case Exists, Precondition, Busy:
		return 4
	case NoSpace:
		return 5
	case Corrupt, Media:
		return 6
	case Unavailable, Timeout:
		return 7
	case Denied, Fenced:
		return 8
	}
	return 1
}

// Error is an error with a kind: what was being done, to what, and why it failed.
type Error struct {
	Op     string         // the verb that failed, as room.Verb
	Kind   Kind           // what the caller can do about it
	Volume block.VolumeID // the volume concerned; zero when none is
	Err    error          // the cause
}

// Error prints op, volume and cause; the kind is printed when the cause is nil.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if !e.Volume.IsZero() {
		b.WriteString(" volume ")
		b.WriteString(e.Volume.String())
	}
	b.WriteString(": ")
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Kind.String())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// E makes an error of a kind about a volume; pass the zero VolumeID when no volume
// is concerned.
func E(op string, kind Kind, volume block.VolumeID, err error) error {
	return &Error{Op: op, Kind: kind, Volume: volume, Err: err}
}

// Errorf makes an error of a kind about no volume.
func Errorf(op string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Wrap adds op to err, unless it says so already, and keeps its kind; nil stays nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && e.Op == op {
		return err
	}
	return &Error{Op: op, Kind: KindOf(err), Err: err}
}

// KindOf returns the kind of the outermost Error in err's chain that has one, or the
// kind of the errno it holds, or Unknown.
func KindOf(err error) Kind {
	for e := err; e != nil; {
		var f *Error
		if !errors.As(e, &f) {
			break
		}
		if f.Kind != Unknown {
			return f.Kind
		}
		e = f.Err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return FromErrno(no)
	}
	return Unknown
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// FromErrno classes what a system call on a file returned.
func FromErrno(no syscall.Errno) Kind {
	switch no {
	case syscall.ENOENT:
		return NotFound
	case syscall.EEXIST, syscall.ENOTEMPTY:
		return Exists
	case syscall.EBUSY, syscall.EWOULDBLOCK, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		return Busy
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EMLINK:
		return NoSpace
	case syscall.EINVAL, syscall.ENAMETOOLONG, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP, syscall.EXDEV,
		syscall.EBADF, syscall.EFBIG:
		return Invalid
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return Denied
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return Unsupported
	case syscall.ETIMEDOUT:
		return Timeout
	case syscall.EIO, syscall.EUCLEAN, syscall.ENODATA, syscall.EBADMSG, syscall.EILSEQ, syscall.EREMOTEIO,
		syscall.ENOLINK, syscall.ENODEV, syscall.ENXIO: // what filesystems and block devices say of damage and loss
		return Media
	}
	return Unknown
}

// Bug is what a room panics with when its own rules are broken: a mistake of ours,
// after which nothing that is in memory can be believed.
func Bug(format string, args ...any) error {
	return &Error{Op: "bug", Kind: Internal, Err: fmt.Errorf(format, args...)}
}
