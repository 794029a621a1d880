// Package docker is Docker's volume plugin, version 1 of its protocol, in front of the
// API: HTTP on a unix socket where the engine looks for it.
//
// A volume's name is its name in the cluster, on every node (scope global). A name may
// also say what the volume is to be, as in
//
//	docker run -v name=db,size=10G,repl=3:/data …
//
// which is the volume db, made at its first use. The options, inline and after --opt, are
// those of package options.
//
// Mount attaches the volume to this node, and its filesystem is mounted below
// Options.Root. Each container that uses it is remembered by the id that the engine gives;
// when the last has let go, the volume is detached, and another node may have it. A node
// whose lease has ended can't keep a volume from the others.
package docker

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi/claim"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

// DefaultSocket is where an engine on this machine looks for the driver holdfast.
const DefaultSocket = "/run/docker/plugins/holdfast.sock"

// sizeDefault is the size, in bytes, of a volume for which nobody says one. It takes only
// what is written to it.
const sizeDefault = 10 << 30

// API is what the plugin calls.
type API struct {
	Volumes     holdfastv1connect.VolumeServiceClient
	Attachments holdfastv1connect.AttachmentServiceClient
	Nodes       holdfastv1connect.NodeServiceClient
}

// Options say what a plugin serves.
type Options struct {
	API  API
	Node string // name or id of the node that this process is on
	Root string // directory below which volumes are mounted, one directory each
	Dir  string // where the plugin remembers which containers use what
	Log  *slog.Logger
}

// Plugin answers the engine.
type Plugin struct {
	o     Options
	claim claim.API
	users users
	log   *slog.Logger
}

// New makes a plugin.
func New(o Options) (*Plugin, error) {
	const op = "docker.New"
	if o.Node == "" || !filepath.IsAbs(o.Root) || o.Dir == "" {
		return nil, fault.Errorf(op, fault.Invalid, "node, root and directory are needed")
	}
	for _, dir := range []string{o.Root, o.Dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.Wrap(op, err)
		}
	}
	p := &Plugin{o: o, claim: claim.API{Attachments: o.API.Attachments, Nodes: o.API.Nodes}, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
	return p, fault.Wrap(op, p.users.open(filepath.Join(o.Dir, "docker.json")))
}

// named returns the name of the volume that a name stands for, and what an inline name
// says it is to be.
func named(text string) (string, *holdfastv1.CreateVolumeRequest, error) {
	r, inline, err := options.Inline(text)
	switch {
	case err != nil:
		return "", nil, err
	case inline:
		return r.Name, r, nil
	case text == "":
		return "", nil, fault.Errorf("docker", fault.Invalid, "the volume's name is missing")
	}
	return text, nil, nil
}

// create makes a volume, or finds it as it is asked for.
func (p *Plugin) create(ctx context.Context, text string, opts map[string]string) error {
	name, request, err := named(text)
	if err != nil {
		return err
	}
	if request != nil && len(opts) > 0 {
		return fault.WithCure(fault.Errorf("docker", fault.Invalid, "the name says what the volume is to be, and so do options"), "use one of the two")
	}
	if request == nil {
		if request, err = options.Parse(opts); err != nil {
			return err
		}
		if request.Name != "" && request.Name != name {
			return fault.Errorf("docker", fault.Invalid, "the volume is called %s and %s", name, request.Name)
		}
	}
	request.Name, request.Wait = name, claim.Wait(ctx)
	if request.Spec.SizeBytes == 0 && request.SourceSnapshot == "" && request.SourceVolume == "" {
		if request.Spec.SizeBytes, err = p.sizeFor(ctx, name); err != nil {
			return err
		}
	}
	if request.Spec.Filesystem == "none" {
		return fault.WithCure(fault.Errorf("docker", fault.Invalid, "a container needs a filesystem"), "leave fs out, or say ext4 or xfs")
	}
	_, err = p.o.API.Volumes.CreateVolume(ctx, request)
	return rpc.Fault("docker.Create", err)
}

// sizeFor returns the size to ask for when nobody says one: that of the volume, if it is
// there.
func (p *Plugin) sizeFor(ctx context.Context, name string) (int64, error) {
	v, err := p.get(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return sizeDefault, nil
	}
	return v.GetSpec().GetSizeBytes(), err
}

// get returns a volume that is there to be used.
func (p *Plugin) get(ctx context.Context, name string) (*holdfastv1.Volume, error) {
	v, err := p.o.API.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: name})
	if err != nil {
		return nil, rpc.Fault("docker.Get", err)
	}
	if v.GetMeta().GetName() != name || v.GetSpec().GetDeleted() != nil || v.GetSpec().GetDeleting() {
		return nil, fault.Errorf("docker.Get", fault.NotFound, "there is no volume %s", name)
	}
	return v, nil
}

// hold returns the name of the volume that a name stands for, once nobody else works on it.
func (p *Plugin) hold(ctx context.Context, text string) (name string, unlock func(), err error) {
	if name, _, err = named(text); err != nil {
		return "", nil, err
	}
	unlock, err = p.users.lock(ctx, name)
	return name, unlock, err
}

// remove deletes a volume: into the trash, when the cluster has one.
func (p *Plugin) remove(ctx context.Context, text string) error {
	name, unlock, err := p.hold(ctx, text)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = p.o.API.Volumes.DeleteVolume(ctx, &holdfastv1.DeleteVolumeRequest{Volume: name})
	if err := rpc.Fault("docker.Remove", err); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// mount makes the volume a directory of this node for one more user, and returns it.
func (p *Plugin) mount(ctx context.Context, text, user string) (string, error) {
	name, unlock, err := p.hold(ctx, text)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := p.get(ctx, name); err != nil {
		return "", err
	}
	dir := p.path(name)
	if _, err := p.claim.Attach(ctx, &holdfastv1.AttachRequest{Volume: name, Node: p.o.Node, MountPath: dir}); err != nil {
		return "", err
	}
	return dir, p.users.add(name, user)
}

// unmount ends one user's use of a volume; when it was the last, the volume is detached.
func (p *Plugin) unmount(ctx context.Context, text, user string) error {
	name, unlock, err := p.hold(ctx, text)
	if err != nil {
		return err
	}
	defer unlock()
	left, err := p.users.remove(name, user)
	if err != nil || left > 0 {
		return err
	}
	return p.claim.Detach(ctx, name, p.o.Node)
}

// path returns where a volume is mounted when it is.
func (p *Plugin) path(name string) string { return filepath.Join(p.o.Root, name) }

// mounted returns where a volume is mounted now, or "".
func (p *Plugin) mounted(v *holdfastv1.Volume) string {
	a := v.GetStatus().GetAttachment()
	if at := a.GetMountPath(); at == p.path(v.GetMeta().GetName()) {
		return at
	}
	return ""
}

// status is what docker volume inspect shows.
func status(v *holdfastv1.Volume) map[string]any {
	s := map[string]any{
		"id":       v.GetMeta().GetId(),
		"size":     v.GetSpec().GetSizeBytes(),
		"replicas": v.GetSpec().GetReplicas(),
		"health":   strings.ToLower(strings.TrimPrefix(v.GetStatus().GetHealth().String(), "HEALTH_")),
	}
	if node := v.GetStatus().GetAttachment().GetNodeId(); node != "" {
		s["attachedTo"] = node
	}
	for _, c := range v.GetStatus().GetConditions() {
		if c.GetStatus() && c.GetMessage() != "" {
			s["problem"] = c.Message
			break
		}
	}
	return s
}
