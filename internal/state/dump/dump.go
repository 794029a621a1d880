// Package dump writes everything that a state.Store holds into a file, and puts it back.
//
// A dump is a gzip stream: the line "holdfast metadata 1", a line of JSON ([Header]), then
// for each item the lengths of its key and its value as uvarints, the key and the value,
// and at the end a key of length 0 and the CRC-32C of all before it, four bytes, big end
// first. What is held under leases is not in it: who put it there does so again.
package dump

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// magic is the first line: the version of the format.
const magic = "holdfast metadata 1\n"

// Header says what a dump is of.
type Header struct {
	Cluster  string         `json:"cluster"` // id
	Node     string         `json:"node"`    // id of the node that wrote it
	Time     time.Time      `json:"time"`
	Revision state.Revision `json:"revision"`
	Items    int            `json:"items"`
}

// leased are the prefixes of what is held under leases.
var leased = []string{state.AlivePrefix, state.Presences.Prefix, state.Root + "leaders/"}

func isLeased(key string) bool {
	for _, p := range leased {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

// Write writes a dump of s, as of one moment; h says whose, and is completed.
func Write(ctx context.Context, s state.Store, h *Header, to io.Writer) error {
	const op = "dump.Write"
	items, revision, err := s.List(ctx, state.Root)
	if err != nil {
		return fault.Wrap(op, err)
	}
	keep := items[:0]
	for _, i := range items {
		if !isLeased(i.Key) {
			keep = append(keep, i)
		}
	}
	h.Revision, h.Items = revision, len(keep)
	return fault.Wrap(op, write(to, *h, keep))
}

func write(to io.Writer, h Header, items []state.Item) error {
	packed := gzip.NewWriter(to)
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := bufio.NewWriter(io.MultiWriter(packed, sum))
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "%s%s\n", magic, head) // the first error of w is returned by Flush
	for _, i := range items {
		put(w, i.Key, i.Value)
	}
	put(w, "", nil)
	if err := w.Flush(); err != nil {
		return err
	}
	if err := binary.Write(packed, binary.BigEndian, sum.Sum32()); err != nil {
		return err
	}
	return packed.Close()
}

func put(w *bufio.Writer, key string, value []byte) {
	_, _ = w.Write(binary.AppendUvarint(nil, uint64(len(key)))) // see Flush
	_, _ = w.Write(binary.AppendUvarint(nil, uint64(len(value))))
	_, _ = w.WriteString(key)
	_, _ = w.Write(value)
}

// Read reads a whole dump; fault.Corrupt when it is not as it was written.
func Read(from io.Reader) (Header, []state.Item, error) {
	h, items, err := read(from)
	if err != nil {
		return Header{}, nil, fault.Errorf("dump.Read", fault.Corrupt, "the dump is damaged: %w", err)
	}
	return h, items, nil
}

func read(from io.Reader) (h Header, items []state.Item, err error) {
	packed, err := gzip.NewReader(from)
	if err != nil {
		return h, nil, err
	}
	r := &summed{r: bufio.NewReader(packed), sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	line, err := r.line()
	if err == nil && line != magic {
		err = fmt.Errorf("it does not begin with %q", magic)
	}
	if err == nil {
		line, err = r.line()
	}
	if err == nil {
		err = json.Unmarshal([]byte(line), &h)
	}
	for err == nil {
		var i state.Item
		if i, err = r.item(); err == nil && i.Key == "" {
			break
		}
		items = append(items, i)
	}
	if err != nil {
		return h, nil, err
	}
	want := r.sum.Sum32()
	var got uint32
	if err := binary.Read(r.r, binary.BigEndian, &got); err != nil {
		return h, nil, err
	}
	if got != want || len(items) != h.Items {
		return h, nil, errors.New("its checksum is wrong")
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return h, nil, errors.New("something follows its end")
	}
	return h, items, nil
}

// summed reads and sums up what was read.
type summed struct {
	r   *bufio.Reader
	sum hash.Hash32
}

const lineMax = 4096

func (s *summed) line() (string, error) {
	var b strings.Builder
	for b.Len() < lineMax {
		c, err := s.ReadByte()
		if err != nil {
			return "", err
		}
		b.WriteByte(c)
		if c == '\n' {
			return b.String(), nil
		}
	}
	return "", errors.New("a line is too long")
}

// ReadByte reads one byte.
func (s *summed) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		_, _ = s.sum.Write([]byte{c}) // does not fail
	}
	return c, err
}

func (s *summed) item() (i state.Item, err error) {
	key, err := binary.ReadUvarint(s)
	if err != nil {
		return i, err
	}
	value, err := binary.ReadUvarint(s)
	if err != nil {
		return i, err
	}
	if key > state.KeyLengthMax || value > state.CommitBytes {
		return i, fmt.Errorf("an item of %d and %d bytes", key, value)
	}
	raw := make([]byte, key+value)
	if _, err := io.ReadFull(s.r, raw); err != nil {
		return i, err
	}
	_, _ = s.sum.Write(raw) // does not fail
	return state.Item{Key: string(raw[:key]), Value: raw[key:]}, nil
}

// Fill puts items into a store that has none of them.
func Fill(ctx context.Context, s state.Store, items []state.Item) error {
	var ops []state.Op
	size := 0
	for n, i := range items {
		ops = append(ops, state.Create(i.Key, i.Value))
		size += len(i.Key) + len(i.Value)
		last := n == len(items)-1
		if !last && len(ops) < state.OpsMax && size+len(items[n+1].Key)+len(items[n+1].Value) <= state.CommitBytes {
			continue
		}
		if _, err := s.Commit(ctx, ops...); err != nil {
			return fault.E("dump.Fill", fault.KindOf(err), block.VolumeID{}, err)
		}
		ops, size = nil, 0
	}
	return nil
}
