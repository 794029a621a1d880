package cli

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

// replicaView is what a replica is, as commands print it.
type replicaView struct {
	Path       string             `json:"path"`
	Volume     string             `json:"volume"`
	Replica    string             `json:"replica"`
	SizeBytes  int64              `json:"sizeBytes"`
	Generation block.Generation   `json:"generation"` // the live one
	Snapshots  []block.Generation `json:"snapshots"`
	Origins    []block.VolumeID   `json:"origins,omitempty"`
}

func viewOfReplica(dir string, m store.Manifest) replicaView {
	return replicaView{Path: dir, Volume: m.Volume.String(), Replica: m.Replica.String(), SizeBytes: m.Size,
		Generation: m.Generation, Snapshots: append([]block.Generation{}, m.Snapshots...), Origins: m.Origins}
}

func (v replicaView) draw(t *table) {
	t.field("path", v.Path)
	t.field("volume", v.Volume)
	t.field("replica", v.Replica)
	t.field("size", bytesText(v.SizeBytes))
	t.field("generation", v.Generation)
	t.field("snapshots", generationsText(v.Snapshots))
	for _, origin := range v.Origins {
		t.field("cloned from", origin)
	}
}

// generationsText lists generations, with runs shortened.
func generationsText(list []block.Generation) string {
	var parts []string
	for i := 0; i < len(list); {
		n := 1
		for i+n < len(list) && list[i+n] == list[i]+block.Generation(n) {
			n++
		}
		text := fmt.Sprint(list[i])
		if n > 1 {
			text += fmt.Sprintf("-%d", list[i+n-1])
		}
		parts = append(parts, text)
		i += n
	}
	return strings.Join(parts, ", ")
}

func newStoreCreate(out *output) *cobra.Command {
	var size quantity
	var volume string
	cmd := &cobra.Command{
		Use:   "create REPLICA --size BYTES",
		Short: "Make a replica of a new, empty volume",
		Long: `Make the replica REPLICA of a volume that reads as zeros. It takes space only
for what is written. The directory must not exist; one that is such a replica
already, of the same size and volume, is left as it is.`,
		Example: `  # in a pool
  holdfast store create /var/lib/holdfast/pools/try/demo --size 1Gi

  # in any directory; nothing keeps a reserve there
  holdfast store create ./demo --size 64Mi --volume-id 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := specOf(volume)
			if err != nil {
				return err
			}
			if err := validSize(size); err != nil {
				return err
			}
			spec.Size = int64(size)
			p, err := openPlace(cmd.Context(), args[0], works)
			if err != nil {
				return err
			}
			view, err := p.create(spec, volume != "")
			if err = first(err, p.close()); err != nil {
				return err
			}
			return out.print(view, view.draw)
		},
	}
	cmd.Flags().Var(&size, "size", "of the volume, such as 1Gi")
	cmd.Flags().StringVar(&volume, "volume-id", "", "`id` of the volume (default: a new one)")
	_ = cmd.MarkFlagRequired("size") // the flag exists
	return cmd
}

// specOf returns the ids of a new replica, of a new volume if none is given.
func specOf(volume string) (spec store.Spec, err error) {
	if volume == "" {
		spec.Volume, err = block.NewVolumeID(rand.Reader)
	} else if spec.Volume, err = block.ParseVolumeID(volume); err != nil {
		err = fault.Errorf("arguments", fault.Invalid, "--volume-id: %w", err)
	}
	if err != nil {
		return spec, err
	}
	spec.Replica, err = block.NewReplicaID(rand.Reader)
	return spec, err
}

// create makes the replica, unless it is there already.
func (p *place) create(spec store.Spec, sameVolume bool) (view replicaView, err error) {
	if is, err := p.look(p.name); err == nil && is == aReplica {
		m, err := p.manifest()
		if err == nil && (m.Size != spec.Size || sameVolume && m.Volume != spec.Volume) {
			err = fault.WithCure(fault.Errorf("create", fault.Exists, "%s exists: a replica of volume %s, %d bytes", p.dir(), m.Volume, m.Size),
				"choose another name, or delete it: holdfast store delete "+quoted(p.dir()))
		}
		return viewOfReplica(p.dir(), m), err
	}
	if err := p.vacant(); err != nil {
		return view, err
	}
	err = await(p.disk, func(done func(error)) { store.Create(p.disk, p.name, spec, p.options(), done) })
	if err != nil {
		return view, err
	}
	m, err := p.manifest()
	return viewOfReplica(p.dir(), m), err
}

// manifest returns what the replica at p is, which nobody may have open.
func (p *place) manifest() (m store.Manifest, err error) {
	err = p.inspect(func(_ *place, i *store.Inspection) error {
		m = i.Manifest()
		return nil
	})
	return m, err
}
