// Package keeper is the process that owns what devices are made of while the processes
// that serve them come and go: open files, under names.
//
// A keeper knows nothing about devices. It is given files with a name and some bytes
// to remember with them ([Client.Put]), and gives copies to who asks ([Client.Get]). So
// it needs no upgrade when devices change, which is as well, since it is the one part
// that can't be upgraded without taking every device away.
//
// It promises:
//
//   - One data process at a time. A newcomer is admitted when the connection of the one
//     before it is closed, which, for a process that died, is when the kernel has closed
//     all its files: none of its threads runs any more.
//   - Files that nobody serves are kept for as long as Put said, then closed, in the
//     order in which they were put. For the file of a FUSE connection that is an abort:
//     I/O that waits then fails.
//   - Nothing that a client says or fails to read ends it or holds it up.
//   - While it holds files it ignores SIGTERM.
//
// It exits only when told to while it holds nothing. If it is killed, data processes go
// on with the files that they have, and put them into the next keeper ([Client.Lost]).
package keeper

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Entry is what a keeper remembers with the files of one name.
type Entry struct {
	Name string `json:"name"`
	// Meta is the client's, at most MetaBytesMax.
	Meta string `json:"meta,omitempty"`
	// Wait is how long the files are kept while nobody serves them; 0 is for ever.
	Wait time.Duration `json:"wait_ns,omitempty"`
	// Clean says that who served them last let go of them by Release.
	Clean bool `json:"clean,omitempty"`
	// Served says that the live data process has put them, and not released them.
	Served bool `json:"served,omitempty"`
}

// Limits.
const (
	MetaBytesMax  = 16 << 10 // of Entry.Meta
	NameLengthMax = 255      // of Entry.Name, in bytes
	FilesMax      = packet.FilesMax
)

// keeper is the state of the process.
type keeper struct {
	log func(format string, args ...any)

	mu      sync.Mutex
	entries map[string]*entry
	live    *conn   // the data process
	waiting []*conn // those that want to be, in order of arrival
}

type entry struct {
	Entry
	files []int
	timer *time.Timer // running while nobody serves
}

func newKeeper(log func(format string, args ...any)) *keeper {
	return &keeper{log: log, entries: map[string]*entry{}}
}

// enter admits c as the live data process, now or when its turn comes.
func (k *keeper) enter(c *conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = append(k.waiting, c)
	k.admit()
}

// admit makes the next in the queue the live one if there is none.
func (k *keeper) admit() {
	for k.live == nil && len(k.waiting) > 0 {
		c := k.waiting[0]
		k.waiting = slices.Delete(k.waiting, 0, 1)
		if c.welcome() == nil {
			k.live = c
		}
	}
}

// leave is called when c's connection is closed: what it served is nobody's.
func (k *keeper) leave(c *conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = slices.DeleteFunc(k.waiting, func(o *conn) bool { return o == c })
	if k.live != c {
		return
	}
	k.live = nil
	for _, e := range k.entries {
		if e.Served {
			k.unserved(e)
		}
	}
	k.admit()
}

// unserved starts e's wait.
func (k *keeper) unserved(e *entry) {
	e.Served = false
	if e.Wait > 0 {
		e.timer = time.AfterFunc(e.Wait, func() { k.expire(e) })
	}
}

// served ends e's wait.
func (e *entry) served() {
	e.Served, e.Clean = true, false
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}

// expire drops e, whose wait is over, unless somebody serves it after all.
func (k *keeper) expire(e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.Served || k.entries[e.Name] != e {
		return
	}
	k.log("nobody has served %q for %v: its files are closed", e.Name, e.Wait)
	delete(k.entries, e.Name)
	go packet.CloseAll(e.files)
}

// put keeps files under e's name. It returns what was there, for the caller to close:
// the last close of a device may wait for its I/O.
func (k *keeper) put(c *conn, e Entry, files []int) (old []int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.mayServe(c, e.Name); err != nil {
		return nil, err
	}
	if len(e.Meta) > MetaBytesMax || len(files) > FilesMax || e.Wait < 0 {
		return nil, fault.Errorf("keeper.Put", fault.Invalid, "%q: %d files and %d bytes, kept for %v: too many, or negative", e.Name, len(files), len(e.Meta), e.Wait)
	}
	if before := k.entries[e.Name]; before != nil {
		before.served()
		old = before.files
	}
	kept := &entry{Entry: e, files: files}
	kept.served()
	k.entries[e.Name] = kept
	return old, nil
}

// get returns the entry and copies of its files. Nothing changes by that.
func (k *keeper) get(c *conn, name string) (Entry, []int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, err := k.find(c, name)
	if err != nil {
		return Entry{}, nil, err
	}
	files, err := duplicate(e.files)
	if err != nil {
		return Entry{}, nil, fault.E("keeper.Get", fault.KindOf(err), noVolume, err)
	}
	return e.Entry, files, nil
}

// release says that c has let go of the name's files: cleanly, at a point where its
// successor has nothing to repeat, or not.
func (k *keeper) release(c *conn, name string, clean bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, err := k.find(c, name)
	if err != nil {
		return err
	}
	e.served()
	e.Clean = clean
	k.unserved(e)
	return nil
}

// remove forgets the name and returns its files, for the caller to close. A name that is
// not there is removed.
func (k *keeper) remove(c *conn, name string) (old []int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[name]
	if e == nil {
		return nil, nil
	}
	if e.Served && c != k.live {
		return nil, fault.Errorf("keeper.Remove", fault.Busy, "%q is being served", name)
	}
	e.served()
	delete(k.entries, name)
	return e.files, nil
}

// list returns all entries, by name.
func (k *keeper) list() []Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []Entry
	for _, name := range slices.Sorted(maps.Keys(k.entries)) {
		list = append(list, k.entries[name].Entry)
	}
	return list
}

// empty reports whether nothing is kept.
func (k *keeper) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries) == 0
}

func (k *keeper) mayServe(c *conn, name string) error {
	if c != k.live {
		return fault.Errorf("keeper", fault.Precondition, "%q: only the live data process may put, get and release", name)
	}
	if name == "" || len(name) > NameLengthMax {
		return fault.Errorf("keeper", fault.Invalid, "a name has 1 to %d bytes, not %d", NameLengthMax, len(name))
	}
	return nil
}

func (k *keeper) find(c *conn, name string) (*entry, error) {
	if err := k.mayServe(c, name); err != nil {
		return nil, err
	}
	e := k.entries[name]
	if e == nil {
		return nil, fault.Errorf("keeper", fault.NotFound, "nothing is kept under %q", name)
	}
	return e, nil
}

// duplicate returns further descriptors of the files: an entry's own may be closed
// while they are on their way.
func duplicate(files []int) ([]int, error) {
	var copies []int
	for _, fd := range files {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			packet.CloseAll(copies)
			return nil, err
		}
		copies = append(copies, c)
	}
	return copies, nil
}
