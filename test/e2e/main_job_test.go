package e2e

import (
	"context"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// volume makes a volume and waits until it can be used.
func (c *cluster) volume(name string, size int64, replicas int32) {
	c.t.Helper()
	_, err := c.nodes[0].api().Volumes.CreateVolume(c.t.Context(), &v1.CreateVolumeRequest{Name: name, Wait: durationpb.New(patience),
		Spec: &v1.VolumeSpec{SizeBytes: size, Replicas: replicas}})
	must(c.t, err)
}

// mount attaches a volume to a node, and returns where it is mounted.
func (n *node) mount(volume string) (dir string) {
	n.c.t.Helper()
	dir = n.path("mnt-" + volume)
	_, err := n.api().Attachments.Attach(n.c.t.Context(), &v1.AttachRequest{Volume: volume, Node: n.name, MountPath: dir, Wait: durationpb.New(patience)})
	must(n.c.t, err)
	return dir
}

// healthy waits until the volume's health is that, as a node sees it.
func (n *node) awaitHealth(volume string, health v1.Health) (v *v1.Volume) {
	n.c.t.Helper()
	n.c.await(volume+" is "+health.String(), func(ctx context.Context) bool {
		var err error
		v, err = n.api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
		n.c.note(v, err)
		return err == nil && v.Status.GetHealth() == health
	})
	return v
}

// TestNothingIsLostWhenANodeDies is the main job: a replicated volume goes on while a node
// that has a replica dies, says so, and is whole again when the node is back.
func TestNothingIsLostWhenANodeDies(t *testing.T) {
	c := newCluster(t, 3)
	c.volume("db", 1<<30, 3)
	dir := c.nodes[0].mount("db")
	sh(t, `seq 1 2000000 >"$1/before"; sync "$1/before"`, dir)
	c.nodes[2].crash()
	sh(t, `seq 1 1000000 >"$1/during"; sync "$1/during"`, dir)
	v := c.nodes[0].awaitHealth("db", v1.Health_HEALTH_DEGRADED)
	if len(v.Status.Conditions) == 0 {
		t.Error("a degraded volume does not say why")
	}
	c.nodes[2].start()
	c.nodes[0].awaitHealth("db", v1.Health_HEALTH_HEALTHY)
	sum := sh(t, `cd "$1"; sha256sum before during`, dir)
	_, err := c.nodes[0].api().Attachments.Detach(t.Context(), &v1.DetachRequest{Volume: "db", Wait: durationpb.New(patience)})
	must(t, err)
	moved := c.nodes[2].mount("db")
	if now := sh(t, `cd "$1"; sha256sum before during`, moved); now != sum {
		t.Errorf("the files have the checksums\n%s\nand had\n%s", now, sum)
	}

	// A replica fewer, and one more again, while it is mounted.
	for _, count := range []int32{2, 3} {
		_, err := c.nodes[0].api().Volumes.UpdateVolume(t.Context(), &v1.UpdateVolumeRequest{Volume: "db", Replicas: &count})
		must(t, err)
		c.await("the volume has its replicas, all in sync", func(ctx context.Context) bool {
			v, err := c.nodes[0].api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: "db"})
			return err == nil && v.Status.Health == v1.Health_HEALTH_HEALTHY && len(v.Status.Replicas) == int(count)
		})
	}
	if now := sh(t, `cd "$1"; sha256sum before during`, moved); now != sum {
		t.Errorf("with other replicas the files have the checksums\n%s\nand had\n%s", now, sum)
	}
}

// attach attaches a volume to a node, and returns its device.
func (n *node) attach(volume string) (device string) {
	n.c.t.Helper()
	a, err := n.api().Attachments.Attach(n.c.t.Context(), &v1.AttachRequest{Volume: volume, Node: n.name, Wait: durationpb.New(patience)})
	must(n.c.t, err)
	return a.Status.GetDevice()
}

// serves reports whether the volume is attached and usable, as the node sees it.
func (n *node) serves(ctx context.Context, volume string) bool {
	a, err := n.api().Attachments.GetAttachment(ctx, &v1.GetAttachmentRequest{Volume: volume})
	return err == nil && a.Status.GetState() == v1.AttachmentState_ATTACHMENT_STATE_ATTACHED
}
