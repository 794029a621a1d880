package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// vacantPage is /vacant/ID: whether nobody has a lease of the volume's replica here.
func (d *daemon) vacantPage(w http.ResponseWriter, r *http.Request) {
	known, vacant := false, false
	d.node.do(func() {
		if at := d.residentOf(r.PathValue("id")); at != nil && at.state != nil {
			known, vacant = true, at.state.Vacant(d.node.loop.Now())
		}
	})
	if !known {
		http.Error(w, "no replica of the volume lies on this node", http.StatusNotFound)
		return
	}
	fmt.Fprint(w, vacant)
}

// Vacant asks the data process whose debug socket that is whether nobody has a lease of a
// volume's replica on its node: see replica.Vacant. fault.NotFound: there is none.
func Vacant(ctx context.Context, socket, volume string) (bool, error) {
	const op = "node.Vacant"
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://data/vacant/"+volume, nil)
	if err != nil {
		return false, fault.Wrap(op, err)
	}
	got, err := c.Do(r)
	if err != nil {
		return false, fault.Errorf(op, fault.Unavailable, "the data process does not answer: %w", err)
	}
	defer got.Body.Close()
	body, err := io.ReadAll(io.LimitReader(got.Body, 1<<10))
	switch {
	case err != nil:
		return false, fault.Errorf(op, fault.Unavailable, "the data process: %w", err)
	case got.StatusCode != http.StatusOK:
		return false, fault.Errorf(op, fault.NotFound, "%s", body)
	}
	return string(body) == "true", nil
}
