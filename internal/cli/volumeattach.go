package cli

import (
	"cmp"
	"context"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/daemon"
)

func attachmentColumns(names map[string]string, volume string) []column[*v1.Attachment] {
	node := func(a *v1.Attachment) string {
		id := a.GetSpec().GetNodeId()
		if id == "" {
			id = a.GetStatus().GetNodeId()
		}
		if names[id] != "" {
			return names[id]
		}
		return id
	}
	return []column[*v1.Attachment]{
		{head: "VOLUME", cell: func(a *v1.Attachment) string {
			if volume != "" {
				return volume
			}
			return a.VolumeId
		}},
		{head: "NODE", cell: node},
		{head: "STATE", cell: func(a *v1.Attachment) string { return enumText(a.GetStatus().GetState().String(), "ATTACHMENT_STATE_") }},
		{head: "DEVICE", cell: func(a *v1.Attachment) string { return cmp.Or(a.GetStatus().GetDevice(), a.GetStatus().GetAddress()) }},
		{head: "MOUNT", cell: func(a *v1.Attachment) string { return a.GetStatus().GetMountPath() }},
		{head: "FRONTEND", wide: true, cell: func(a *v1.Attachment) string { return a.GetStatus().GetFrontend() }},
		{head: "BY", wide: true, cell: func(a *v1.Attachment) string { return a.GetSpec().GetBy() }},
	}
}

func (r *remote) printAttachment(ctx context.Context, c *client.Client, a *v1.Attachment, volume string) error {
	return printOne(r.out, a, attachmentColumns(nodeNames(ctx, c), volume), func(t *table) { conditions(t, a.GetStatus().GetConditions()) })
}

// attaches is what commands do that attach the volume which they are given, as q says.
func (r *remote) attaches(q *v1.AttachRequest, w *waiting) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return r.do(cmd, func(ctx context.Context, c *client.Client) error {
			q.Volume, q.Wait = args[0], w.proto()
			a, err := c.Attachments.Attach(ctx, q)
			if err != nil {
				return err
			}
			return r.printAttachment(ctx, c, a, args[0])
		})
	}
}

func newVolumeAttach(r *remote) *cobra.Command {
	q := &v1.AttachRequest{}
	var w waiting
	cmd := &cobra.Command{
		Use:   "attach VOLUME",
		Short: "Make a volume a device on a node, and mount it",
		Long: `Make a volume a device on a node: the one that is asked, or the one that --node
names. With --mount its filesystem is mounted there; the first time it is made.

A volume is attached to one node at a time. From a node that is dead it is taken
once that node's leases have ended, which takes some seconds. With --force it is
taken from a node that lives, too, whose users then get I/O errors.

One that is attached already is looked at. If its device has ended, because all
processes of its node died, the node makes it anew and mounts it by itself, and
the command waits for that.`,
		Example: `  holdfast volume attach db
  holdfast volume attach db --node n2 --mount /mnt/db
  holdfast volume attach db --node n3 --force`,
		Args: exactly("VOLUME"),
		RunE: r.attaches(q, &w),
	}
	f := cmd.Flags()
	f.StringVar(&q.Node, "node", "", "the `node`; else the one that is asked")
	f.StringVar(&q.MountPath, "mount", "", "absolute `path` where its filesystem is mounted")
	f.StringSliceVar(&q.MountOptions, "mount-option", nil, "`options` of the mount, such as noatime")
	f.BoolVar(&q.ReadOnly, "read-only", false, "the device can't be written")
	f.StringVar(&q.Frontend, "frontend", "", "how the kernel sees it: `auto|fuse|ublk|nbd`; or export, as holdfast volume export does")
	f.StringVar(&q.Snapshot, "snapshot", "", "show this `snapshot` of it, read-only, instead")
	f.BoolVar(&q.Force, "force", false, "take it from the node that has it")
	w.flags(cmd, "until the device is there")
	return cmd
}

func newVolumeExport(r *remote) *cobra.Command {
	q := &v1.AttachRequest{Export: &v1.Export{}}
	var w waiting
	cmd := &cobra.Command{
		Use:   "export VOLUME",
		Short: "Let QEMU, nbdcopy and other clients of NBD use a volume",
		Long: `Let clients of the NBD protocol (QEMU, qemu-img, nbdcopy, libnbd, fio) use a
volume, without a device: at a Unix socket of its node, which only root can
open, or with --listen over TCP. There both sides prove themselves with
certificates: those of the cluster's nodes, or those that the node's settings
export-ca, export-cert and export-key name.

An export is an attachment: a volume has one at most, holdfast volume detach
ends it, and another node that takes the volume ends it too. Clients lose their
connections when the node's data process is started again; those that connect
anew go on.`,
		Example: `  holdfast volume export db
  holdfast volume export db --socket /run/vm/db.sock
  holdfast volume export db --node n2 --listen :10809 --read-only
  nbdcopy image.raw 'nbd+unix:///db?socket=/run/holdfast/export/db.sock'
  qemu-img convert -O raw image.qcow2 'nbd+unix:///db?socket=/run/holdfast/export/db.sock' -n`,
		Args: exactly("VOLUME"),
		RunE: r.attaches(q, &w),
	}
	f := cmd.Flags()
	f.StringVar(&q.Node, "node", "", "the `node`; else the one that is asked")
	f.StringVar(&q.Export.Socket, "socket", "", "absolute `path` of the Unix socket; else one in the node's run directory")
	f.StringVar(&q.Export.Listen, "listen", "", "`address` for TCP with TLS: IP:port, or :port at the node's own address")
	f.BoolVar(&q.ReadOnly, "read-only", false, "clients can't write")
	f.StringVar(&q.Snapshot, "snapshot", "", "export this `snapshot` of it, read-only, instead")
	f.BoolVar(&q.Force, "force", false, "take it from the node that has it")
	w.flags(cmd, "until clients can connect")
	return cmd
}

func newVolumeDetach(r *remote) *cobra.Command {
	q := &v1.DetachRequest{}
	var w waiting
	cmd := &cobra.Command{
		Use:   "detach VOLUME",
		Short: "Take a volume's device, and its mount, away",
		Long: `Take a volume's device, and its mount, away. One that isn't attached is success.
With --force a node that doesn't answer is not waited for: its copy of the
device fails when it comes back.`,
		Example: `  holdfast volume detach db
  holdfast volume detach db --node n1 --force`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Volume, q.Wait = args[0], w.proto()
				if _, err := c.Attachments.Detach(ctx, q); err != nil {
					return err
				}
				if _, err := c.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: args[0]}); connect.CodeOf(err) == connect.CodeNotFound {
					r.out.say("there is no volume %s", args[0])
					return nil
				}
				r.out.say("volume %s is detached", args[0])
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&q.Node, "node", "", "only if it is attached to this `node`")
	cmd.Flags().BoolVar(&q.Force, "force", false, "don't wait for a node that is gone")
	w.flags(cmd, "until the device is gone")
	return cmd
}

func newVolumeMount(r *remote) *cobra.Command {
	q := &v1.MountRequest{}
	var w waiting
	cmd := &cobra.Command{
		Use:   "mount VOLUME PATH",
		Short: "Mount the filesystem of an attached volume on its node",
		Long: `Mount the filesystem of a volume at an absolute path of the node where it is
attached.`,
		Example: "  holdfast volume mount db /mnt/db",
		Args:    exactly("VOLUME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Volume, q.Path, q.Wait = args[0], args[1], w.proto()
				a, err := c.Attachments.Mount(ctx, q)
				if err != nil {
					return err
				}
				return r.printAttachment(ctx, c, a, args[0])
			})
		},
	}
	cmd.Flags().StringSliceVar(&q.Options, "mount-option", nil, "`options` of the mount, such as noatime")
	w.flags(cmd, "until it is mounted")
	return cmd
}

func newVolumeUnmount(r *remote) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:     "unmount VOLUME",
		Aliases: []string{"umount"},
		Short:   "Unmount a volume's filesystem, and leave its device",
		Long: `Unmount the filesystem of a volume on the node where it is attached. The device
stays.`,
		Example: "  holdfast volume unmount db",
		Args:    exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				a, err := c.Attachments.Unmount(ctx, &v1.UnmountRequest{Volume: args[0], Wait: w.proto()})
				if err != nil {
					return err
				}
				return r.printAttachment(ctx, c, a, args[0])
			})
		},
	}
	w.flags(cmd, "until it is unmounted")
	return cmd
}

func newVolumeAbort(r *remote) *cobra.Command {
	var w waiting
	var here bool
	var config string
	cmd := &cobra.Command{
		Use:   "abort VOLUME",
		Short: "Let I/O that hangs fail now",
		Long: `Let I/O on a volume's device that waits fail now, and all that comes. Who uses
the device gets I/O errors. It is of no use afterwards: detach it.

With --here nobody is asked: the devices of that volume on this machine end,
whether or not the node's processes and the cluster answer. A node that serves
the volume still makes a new device then.`,
		Example: `  holdfast volume abort db
  holdfast volume abort db --here`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if here {
				return abortHere(cmd, r.out, config, args[0])
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				a, err := c.Attachments.Abort(ctx, &v1.AbortRequest{Volume: args[0], Wait: w.proto()})
				if err != nil {
					return err
				}
				return r.printAttachment(ctx, c, a, args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&here, "here", false, "end its devices on this machine, without asking anybody")
	cmd.Flags().StringVar(&config, "config", "/run/holdfast/node.yaml", "with --here: the `file` that this machine's node has written")
	w.flags(cmd, "until it is done")
	return cmd
}

func abortHere(cmd *cobra.Command, out *output, config, volume string) error {
	o, err := childOptions(cmd, config)
	if err != nil {
		return err
	}
	if err := daemon.Abort(cmd.Context(), o, volume); err != nil {
		return err
	}
	out.say("the devices of volume %s on this machine have ended", volume)
	return nil
}
