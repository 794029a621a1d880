package node

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// kindHeader carries the kind of an error between two processes of one build.
const kindHeader = "Holdfast-Fault"

// answerPage answers with a message, or with an error and its kind.
func answerPage(w http.ResponseWriter, answer proto.Message, err error) {
	if err != nil {
		w.Header().Set(kindHeader, strconv.Itoa(int(fault.KindOf(err))))
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	raw, err := protojson.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(raw) // who has gone needs no answer
}

// page is what is asked of a data process, at its debug socket.
type page struct {
	socket, path string
	body         []byte // nil: it is only looked at
}

// get returns the answer; the caller closes its body.
func (p page) get(ctx context.Context, op string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
	}}}
	method := http.MethodGet
	if p.body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://data"+p.path, bytes.NewReader(p.body))
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	got, err := c.Do(r)
	if err != nil {
		return nil, fault.Errorf(op, fault.Unavailable, "the data process does not answer: %w", err)
	}
	return got, nil
}

// askPage asks, and reads what answerPage answered.
func askPage(ctx context.Context, op string, p page, answer proto.Message) error {
	got, err := p.get(ctx, op)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(io.LimitReader(got.Body, 4<<20))
	if err != nil {
		return fault.Errorf(op, fault.Unavailable, "the data process: %w", err)
	}
	if got.StatusCode != http.StatusOK {
		kind, _ := strconv.Atoi(got.Header.Get(kindHeader)) // 0 is Unknown
		return fault.Errorf(op, fault.Kind(kind), "%s", bytes.TrimSpace(body))
	}
	return fault.Wrap(op, protojson.Unmarshal(body, answer))
}
