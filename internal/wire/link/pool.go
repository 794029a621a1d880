package link

import (
	"math/bits"
	"sync"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Pool is the memory that a node spends on received frames: frames, and aligned buffers
// for their data in powers of two from 4 KiB to 1 MiB. All methods are for any
// goroutine. Memory that is given back is used again, not freed, unless another size
// needs the room.
type Pool struct {
	limits PoolLimits

	mu      sync.Mutex
	freed   sync.Cond
	waiting int // goroutines, for freed
	bytes   int // of all buffers
	used    int // of those that are out
	free    [classes][]*Buffer
	frames  []*Frame // that are not out
	out     int      // frames that are
}

// PoolLimits say how much a Pool takes.
type PoolLimits struct {
	BytesMax  int // of data; 0 is 64 MiB, the least 1 MiB
	FramesMax int // 0 is 4096; one takes 1 to 9 KiB
}

const classes = 9

// classOf returns the class of the smallest buffers that hold size bytes.
func classOf(size int) int { return bits.Len(uint((size - 1) / block.Size)) }

func classSize(class int) int { return block.Size << class }

// NewPool returns a pool that has nothing yet.
func NewPool(l PoolLimits) *Pool {
	orElse(&l.BytesMax, 64<<20)
	orElse(&l.FramesMax, 4096)
	l.BytesMax = max(l.BytesMax, wire.DataMax)
	p := &Pool{limits: l}
	p.freed.L = &p.mu
	return p
}

// InUse returns how many frames, and how many bytes of buffers, are out.
func (p *Pool) InUse() (frames, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out, p.used
}

// Buffer is a part of a pool's memory.
type Buffer struct {
	// Data starts at a multiple of host.Align. What is in it at first is left over.
	Data  []byte
	all   []byte
	pool  *Pool
	taken bool
}

// TryGet returns a buffer of size bytes, from 1 to wire.DataMax, or nil when the pool has
// no more.
func (p *Pool) TryGet(size int) *Buffer {
	if size < 1 || size > wire.DataMax {
		panic(fault.Bug("link: a buffer of %d bytes", size))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.has(size) {
		return nil
	}
	return p.get(size)
}

// Release gives the buffer back. It is called once.
func (b *Buffer) Release() {
	p := b.pool
	p.mu.Lock()
	p.put(b)
	p.announce()
	p.mu.Unlock()
}

// has makes sure that there is a buffer, or room for one, if that can be.
func (p *Pool) has(size int) bool {
	class := classOf(size)
	if len(p.free[class]) > 0 {
		return true
	}
	for other := classes - 1; other >= 0 && p.bytes+classSize(class) > p.limits.BytesMax; other-- {
		for free := &p.free[other]; len(*free) > 0 && p.bytes+classSize(class) > p.limits.BytesMax; {
			last := len(*free) - 1
			(*free)[last] = nil
			*free = (*free)[:last]
			p.bytes -= classSize(other)
		}
	}
	return p.bytes+classSize(class) <= p.limits.BytesMax
}

// get returns a buffer that the pool has.
func (p *Pool) get(size int) *Buffer {
	class := classOf(size)
	var b *Buffer
	if free := &p.free[class]; len(*free) > 0 {
		b = (*free)[len(*free)-1]
		*free = (*free)[:len(*free)-1]
	} else {
		b = &Buffer{all: aligned(classSize(class)), pool: p}
		p.bytes += classSize(class)
	}
	b.Data, b.taken = b.all[:size:size], true
	p.used += len(b.all)
	return b
}

func (p *Pool) put(b *Buffer) {
	if !b.taken {
		panic(fault.Bug("link: a buffer was released twice"))
	}
	b.Data, b.taken = nil, false
	class := classOf(len(b.all))
	p.free[class] = append(p.free[class], b)
	p.used -= len(b.all)
}

// aligned is host.Buffer, without the page that it spends on alignment when the
// allocator's own will do.
func aligned(size int) []byte {
	if b := make([]byte, size); host.Aligned(b) {
		return b
	}
	return host.Buffer(size)
}

// announce wakes those who wait for memory.
func (p *Pool) announce() {
	if p.waiting > 0 {
		p.freed.Broadcast()
	}
}

// wake makes those who wait look again.
func (p *Pool) wake() {
	p.mu.Lock()
	p.announce()
	p.mu.Unlock()
}

// frame returns a frame for c with size bytes of data, once c may have it; nil when c
// is over.
func (p *Pool) frame(c *Conn, size int) *Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case c.over.Load():
			return nil
		case c.pendingFrames < c.options.PendingFramesMax && c.pendingBytes+size <= c.options.PendingBytesMax &&
			p.out < p.limits.FramesMax && (size == 0 || p.has(size)):
			return p.getFrame(c, size)
		}
		p.waiting++
		p.freed.Wait()
		p.waiting--
	}
}

func (p *Pool) getFrame(c *Conn, size int) *Frame {
	var f *Frame
	if n := len(p.frames); n > 0 {
		f, p.frames = p.frames[n-1], p.frames[:n-1]
	} else {
		f = newFrame()
	}
	p.out++
	f.conn = c
	if size > 0 {
		f.buffer = p.get(size)
	}
	c.pendingFrames++
	c.pendingBytes += size
	return f
}

func (p *Pool) putFrame(c *Conn, f *Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.pendingFrames--
	if f.buffer != nil {
		c.pendingBytes -= len(f.buffer.Data)
		p.put(f.buffer)
	}
	f.conn, f.buffer, f.Message = nil, nil, nil
	p.out--
	p.frames = append(p.frames, f)
	p.announce()
}
