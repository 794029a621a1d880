package link

import (
	"io"
)

// reader takes a stream apart. Heads come through a buffer, many with one read; data goes
// to where it belongs, except for what came along with the head.
type reader struct {
	from  io.Reader
	buf   []byte
	r, w  int // what is read and not used is buf[r:w]
	ahead int // how much a read may take when less is needed
	most  int // how much that is when frames are small
}

const (
	readerSize = 68 << 10 // the largest head fits
	// muchData is from where on it pays to read data straight to its place: to copy it
	// would cost what a system call does, or more.
	muchData      = 32 << 10
	aheadOfLittle = 64 << 10
	aheadOfMuch   = 2 << 10
	aheadOfCheap  = 256 // the head of a frame with little data
)

// newReader returns a reader of a stream. When to read from it is cheap, because it has
// a buffer of its own, nothing is copied that need not be.
func newReader(from io.Reader, cheap bool) *reader {
	r := &reader{from: from, buf: make([]byte, readerSize), most: aheadOfLittle}
	if cheap {
		r.most = aheadOfCheap
	}
	r.ahead = r.most
	return r
}

// need makes sure that the next n bytes, at most readerSize, are in the buffer. The
// error is io.EOF when the stream ends before the first of them.
func (r *reader) need(n int) error {
	if r.buffered() >= n {
		return nil
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	end := max(n, min(r.ahead, len(r.buf)))
	got, err := io.ReadAtLeast(r.from, r.buf[r.w:end], n-r.w)
	if err == io.EOF && r.w > 0 {
		err = io.ErrUnexpectedEOF
	}
	r.w += got
	return err
}

// buffered returns how many bytes are in the buffer.
func (r *reader) buffered() int { return r.w - r.r }

// next returns the next n bytes, which are in the buffer, until the next call of need.
func (r *reader) next(n int) []byte { return r.buf[r.r : r.r+n] }

// skip uses up the next n bytes, which are in the buffer.
func (r *reader) skip(n int) { r.r += n }

// full fills p.
func (r *reader) full(p []byte) error {
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	_, err := io.ReadFull(r.from, p[n:])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// expect tells how much data the frame had that was read last: those that follow are
// likely to be alike.
func (r *reader) expect(data int) {
	r.ahead = r.most
	if data >= muchData {
		r.ahead = min(r.most, aheadOfMuch)
	}
}
