package nbd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// handshake is the talk before the first request, in which the client chooses an
// export. It is fixed newstyle: option, answer, option, until one of them begins the
// transmission.
type handshake struct {
	conn    net.Conn // replaced when it becomes TLS
	r       *bufio.Reader
	w       *bufio.Writer
	exports exports
	tls     *tls.Config // not nil: nothing else is talked about before

	secured    bool
	noZeroes   bool
	structured bool
	allocation string // the export that block status was asked for
	mapped     bool   // block status may be asked for what was chosen
}

// exports is what there is to choose from.
type exports interface {
	names() []string
	find(name string) *Frontend
}

// errLeft says that the client ended the handshake, which is its right.
var errLeft = errors.New("the client left")

// bufferBytes is what is read and gathered at once.
const bufferBytes = 64 << 10

func newHandshake(c net.Conn, e exports, config *tls.Config) *handshake {
	h := &handshake{exports: e, tls: config}
	h.use(c)
	return h
}

func (h *handshake) use(c net.Conn) {
	h.conn, h.r, h.w = c, bufio.NewReaderSize(c, bufferBytes), bufio.NewWriterSize(c, 4096)
}

// run talks until the client has chosen an export, which is joined by c.
func (h *handshake) run(c *conn) error {
	if err := h.greet(); err != nil {
		return err
	}
	for range optionsMax {
		option, data, err := h.option()
		if err != nil {
			return err
		}
		done, err := h.answer(c, option, data)
		if err == nil {
			err = h.w.Flush()
		}
		if done || err != nil {
			return err
		}
	}
	return fault.Errorf("nbd.handshake", fault.Invalid, "%d options and no choice", optionsMax)
}

func (h *handshake) greet() error {
	var b [18]byte
	be.PutUint64(b[0:], magicGreeting)
	be.PutUint64(b[8:], magicOption)
	be.PutUint16(b[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := h.conn.Write(b[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(h.r, b[:4]); err != nil {
		return err
	}
	flags := be.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 || flags&flagFixedNewstyle == 0 {
		return fault.Errorf("nbd.greet", fault.Invalid, "the client has flags %#x: it must speak fixed newstyle", flags)
	}
	h.noZeroes = flags&flagNoZeroes != 0
	return nil
}

// option reads one.
func (h *handshake) option() (option uint32, data []byte, err error) {
	var b [16]byte
	if _, err := io.ReadFull(h.r, b[:]); err != nil {
		return 0, nil, err
	}
	n := be.Uint32(b[12:])
	if be.Uint64(b[0:]) != magicOption || n > optionBytesMax {
		return 0, nil, fault.Errorf("nbd.option", fault.Invalid, "no option, or one of %d bytes", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(h.r, data)
	return be.Uint32(b[8:]), data, err
}

// reply writes an answer, whose parts are put one after the other.
func (h *handshake) reply(option, kind uint32, parts ...string) error {
	var b [20]byte
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	be.PutUint64(b[0:], magicReply)
	be.PutUint32(b[8:], option)
	be.PutUint32(b[12:], kind)
	be.PutUint32(b[16:], uint32(n))
	_, err := h.w.Write(b[:])
	for _, p := range parts {
		_, pErr := h.w.WriteString(p)
		err = errors.Join(err, pErr)
	}
	return err
}

// answer answers an option; done says that transmission begins.
func (h *handshake) answer(c *conn, option uint32, data []byte) (done bool, err error) {
	switch open := h.tls == nil || h.secured; {
	case option == optAbort:
		return false, errors.Join(h.reply(option, repAck), h.w.Flush(), errLeft)
	case option == optStartTLS:
		return false, h.startTLS(data)
	case !open && option == optExportName: // which can't be answered by an error
		return false, fault.Errorf("nbd.handshake", fault.Denied, "the client chose an export without TLS")
	case !open:
		return false, h.reply(option, repErrTLSReqd, "TLS is required")
	}
	switch option {
	case optExportName:
		return h.exportName(c, string(data))
	case optList:
		return false, h.list(data)
	case optInfo, optGo:
		return h.info(c, option, data)
	case optStructuredReply:
		if len(data) != 0 {
			return false, h.reply(option, repErrInvalid)
		}
		h.structured = true
		return false, h.reply(option, repAck)
	case optListMetaContext, optSetMetaContext:
		return false, h.meta(option, data)
	}
	return false, h.reply(option, repErrUnsup)
}

func (h *handshake) startTLS(data []byte) error {
	switch {
	case len(data) != 0 || h.secured:
		return h.reply(optStartTLS, repErrInvalid)
	case h.tls == nil:
		return h.reply(optStartTLS, repErrUnsup)
	case h.r.Buffered() > 0: // said in the clear, it would pass for said under TLS
		return fault.Errorf("nbd.handshake", fault.Denied, "the client went on before TLS began")
	}
	if err := errors.Join(h.reply(optStartTLS, repAck), h.w.Flush()); err != nil {
		return err
	}
	secured := tls.Server(h.conn, h.tls)
	if err := secured.Handshake(); err != nil {
		return err
	}
	h.use(secured)
	h.secured, h.structured, h.allocation = true, false, ""
	return nil
}

// exportName is the old way to begin, without errors.
func (h *handshake) exportName(c *conn, name string) (done bool, err error) {
	f := h.exports.find(name)
	if f == nil {
		return false, fault.Errorf("nbd.handshake", fault.NotFound, "no export %q", name)
	}
	if err := f.join(c); err != nil {
		return false, err
	}
	h.mapped = h.structured && h.allocation == name
	var b [10 + 124]byte
	be.PutUint64(b[0:], uint64(f.size.Load()))
	be.PutUint16(b[8:], f.flags(h.structured))
	n := len(b)
	if h.noZeroes {
		n = 10
	}
	_, err = h.w.Write(b[:n])
	return true, err
}

func (h *handshake) list(data []byte) error {
	if len(data) != 0 {
		return h.reply(optList, repErrInvalid)
	}
	var err error
	for _, name := range h.exports.names() {
		err = errors.Join(err, h.reply(optList, repServer, word32(uint32(len(name))), name))
	}
	return errors.Join(err, h.reply(optList, repAck))
}

// info answers GO, which begins the transmission, and INFO, which does not.
func (h *handshake) info(c *conn, option uint32, data []byte) (done bool, err error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(be.Uint16(rest)) {
		return false, h.reply(option, repErrInvalid)
	}
	f := h.exports.find(name)
	if f == nil {
		return false, h.reply(option, repErrUnknown, "no such export")
	}
	if option == optGo {
		if err := f.join(c); err != nil {
			return false, h.reply(option, repErrUnknown, "the export takes no more clients")
		}
		h.mapped = h.structured && h.allocation == name
	}
	err = errors.Join(
		h.reply(option, repInfo, word16(infoExport), word64(uint64(f.size.Load())), word16(f.flags(h.structured))),
		h.reply(option, repInfo, word16(infoBlockSize), word32(uint32(f.o.BlockSize)), word32(preferredBytes), word32(longestBytes)))
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		if be.Uint16(rest) == infoName {
			err = errors.Join(err, h.reply(option, repInfo, word16(infoName), name))
		}
	}
	return option == optGo, errors.Join(err, h.reply(option, repAck))
}

// meta answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) meta(option uint32, data []byte) error {
	name, queries, ok := parseQueries(data)
	if !ok || option == optSetMetaContext && !h.structured {
		return h.reply(option, repErrInvalid)
	}
	if h.exports.find(name) == nil {
		return h.reply(option, repErrUnknown)
	}
	wanted := slices.Contains(queries, contextAlloc)
	id := uint32(0)
	if option == optSetMetaContext {
		h.allocation, id = "", contextAllocID
		if wanted {
			h.allocation = name
		}
	} else {
		wanted = wanted || len(queries) == 0 || slices.Contains(queries, contextBase)
	}
	var err error
	if wanted {
		err = h.reply(option, repMetaContext, word32(id), contextAlloc)
	}
	return errors.Join(err, h.reply(option, repAck))
}

// parseQueries reads the data of the options that are about metadata contexts.
func parseQueries(data []byte) (export string, queries []string, ok bool) {
	export, rest, ok := cutString(data)
	if !ok || len(rest) < 4 || be.Uint32(rest) > queriesMax {
		return "", nil, false
	}
	n := int(be.Uint32(rest))
	rest = rest[4:]
	for range n {
		var q string
		if q, rest, ok = cutString(rest); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return export, queries, len(rest) == 0
}

// cutString reads a string that its length stands before.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	if n > nameBytesMax || int(n) > len(b)-4 {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func word16(v uint16) string { return string(be.AppendUint16(nil, v)) }
func word32(v uint32) string { return string(be.AppendUint32(nil, v)) }
func word64(v uint64) string { return string(be.AppendUint64(nil, v)) }
