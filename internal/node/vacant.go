package node

import (
	"context"
	"fmt"
	"io"
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
	got, err := page{socket: socket, path: "/vacant/" + volume}.get(ctx, op)
	if err != nil {
		return false, err
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
