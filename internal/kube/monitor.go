package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Monitor releases what a node that is gone holds: pods with our volumes are deleted
// without waiting for their kubelet, and the node gets Kubernetes' taint out-of-service,
// after which its VolumeAttachments go at once. When the node is back, the taint goes.
//
// A node is gone when its lease in Holdfast has ended and its kubelet is silent too, each
// for as long as Patience says. If a pod should live there none the less, it can't touch
// its data: the epoch of who attaches the volume next fences it.
//
// Two monitors at once do no harm: everything that they do can be done twice.
type Monitor struct {
	Kube     *Client
	Nodes    holdfastv1connect.NodeServiceClient
	Volumes  holdfastv1connect.VolumeServiceClient
	Clock    host.Clock
	Patience Patience
	Log      *slog.Logger

	watchman watchman
	held     string            // what was said last about not releasing anything
	wrong    map[string]string // what was wrong at the last look, by volume
	told     map[string]string // what claims' events said last, by volume
}

// lookEvery is how often the monitor looks.
const lookEvery = 5 * time.Second

// The taint of a node that is gone: Kubernetes' key, by which its controllers detach at
// once, and our value, so that we take away only what we put there. It evicts nothing.
var outOfService = taint{Key: "node.kubernetes.io/out-of-service", Value: "holdfast", Effect: "NoSchedule"}

// Run works until ctx ends.
func (m *Monitor) Run(ctx context.Context) {
	m.watchman.patience = Patience{Holdfast: cmp.Or(m.Patience.Holdfast, DefaultPatience.Holdfast), Kubelet: cmp.Or(m.Patience.Kubelet, DefaultPatience.Kubelet)}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := m.look(ctx); err != nil && ctx.Err() == nil {
			m.Log.Warn("the monitor can't see", obs.Err(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look looks once, and does what follows.
func (m *Monitor) look(ctx context.Context) error {
	nodes, seen, err := m.see(ctx)
	if err != nil {
		return err
	}
	gone, held := m.watchman.look(m.Clock.Now(), seen)
	if held != m.held && held != "" {
		m.Log.Warn(held)
	}
	m.held = held
	for _, s := range seen {
		node, there := nodes[s.name]
		why := gone[s.name]
		switch {
		case why != "":
			err = m.release(ctx, s.name, node, there, why)
		case there && !s.leaseEnded && s.ready && slices.ContainsFunc(node.Spec.Taints, ours):
			err = m.welcome(ctx, node)
		}
		if err != nil {
			return err
		}
	}
	return m.tell(ctx)
}

func ours(t taint) bool { return t.Key == outOfService.Key && t.Value == outOfService.Value }

// see puts together what both sides say about the nodes that have our driver.
func (m *Monitor) see(ctx context.Context) (nodes map[string]kubeNode, seen []sight, err error) {
	listed, err := list[kubeNode](ctx, m.Kube, "/api/v1/nodes", nil)
	if err != nil {
		return nil, nil, err
	}
	drivers, err := list[csiNode](ctx, m.Kube, "/apis/storage.k8s.io/v1/csinodes", nil)
	if err != nil {
		return nil, nil, err
	}
	leases, err := list[lease](ctx, m.Kube, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", nil)
	if err != nil {
		return nil, nil, err
	}
	holdfast, err := m.Nodes.ListNodes(ctx, &holdfastv1.ListNodesRequest{PageSize: 1000})
	if err != nil {
		return nil, nil, rpc.Fault("kube.see", err)
	}
	nodes, renewed, members := map[string]kubeNode{}, map[string]string{}, map[string]*holdfastv1.Node{}
	for _, n := range listed {
		nodes[n.Metadata.Name] = n
	}
	for _, l := range leases {
		renewed[l.Metadata.Name] = l.Spec.RenewTime
	}
	for _, n := range holdfast.Nodes {
		members[n.GetMeta().GetId()] = n
	}
	for _, d := range drivers {
		member := members[holdfastNode(d)]
		if member == nil {
			continue // not ours, or not yet
		}
		n, there := nodes[d.Metadata.Name]
		seen = append(seen, sight{name: d.Metadata.Name, leaseEnded: member.GetStatus().GetState() == holdfastv1.NodeState_NODE_STATE_DOWN,
			maintenance: member.GetSpec().GetMaintenance(), renewed: renewed[d.Metadata.Name], exists: there, ready: there && n.ready()})
	}
	return nodes, seen, nil
}

// holdfastNode returns our id of a node, or "".
func holdfastNode(n csiNode) string {
	for _, d := range n.Spec.Drivers {
		if d.Name == csi.DriverName {
			return d.NodeID
		}
	}
	return ""
}

// release lets go what a node holds.
func (m *Monitor) release(ctx context.Context, name string, node kubeNode, there bool, why string) error {
	if there && !slices.ContainsFunc(node.Spec.Taints, ours) {
		m.Log.Warn("a node is gone: its volumes and the pods that use them are released", "node", name, "why", why)
		if err := m.taint(ctx, node, append(node.Spec.Taints, outOfService)); err != nil {
			return err
		}
		m.event(ctx, reference{Kind: "Node", Name: name, UID: node.Metadata.UID}, "NodeGone",
			why+": pods that use its Holdfast volumes start elsewhere. To switch this off: holdfast kube monitor is a container of the controller; set monitor.enabled=false")
	}
	volumes, err := list[persistentVolume](ctx, m.Kube, "/api/v1/persistentvolumes", nil)
	if err != nil {
		return err
	}
	claims := map[string]bool{} // namespace/name, of ours
	for _, v := range volumes {
		if v.Spec.CSI != nil && v.Spec.CSI.Driver == csi.DriverName && v.Spec.ClaimRef != nil {
			claims[v.Spec.ClaimRef.Namespace+"/"+v.Spec.ClaimRef.Name] = true
		}
	}
	pods, err := list[pod](ctx, m.Kube, "/api/v1/pods", url.Values{"fieldSelector": {"spec.nodeName=" + name}})
	if err != nil {
		return err
	}
	for _, p := range pods {
		if err := m.releasePod(ctx, p, claims, why); err != nil {
			return err
		}
	}
	attachments, err := list[attachment](ctx, m.Kube, "/apis/storage.k8s.io/v1/volumeattachments", nil)
	if err != nil {
		return err
	}
	for _, a := range attachments {
		if a.Spec.Attacher == csi.DriverName && a.Spec.NodeName == name {
			if err := m.Kube.remove(ctx, "/apis/storage.k8s.io/v1/volumeattachments/"+a.Metadata.Name, a.Metadata.UID, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// releasePod deletes a pod that uses one of our claims, without waiting for its kubelet.
func (m *Monitor) releasePod(ctx context.Context, p pod, claims map[string]bool, why string) error {
	uses := slices.ContainsFunc(p.claims(), func(c string) bool { return claims[p.Metadata.Namespace+"/"+c] })
	if !uses || p.ofDaemonSet() {
		return nil
	}
	m.event(ctx, reference{Kind: "Pod", Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, UID: p.Metadata.UID}, "NodeGone",
		fmt.Sprintf("node %s is gone: %s. The pod is deleted so that it starts elsewhere with its data", p.Spec.NodeName, why))
	at := "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name
	return m.Kube.remove(ctx, at, p.Metadata.UID, new(int64))
}

// welcome takes the taint away from a node that is back.
func (m *Monitor) welcome(ctx context.Context, node kubeNode) error {
	m.Log.Info("a node is back", "node", node.Metadata.Name)
	return m.taint(ctx, node, slices.DeleteFunc(slices.Clone(node.Spec.Taints), ours))
}

// taint replaces a node's taints, if they still are as they were seen.
func (m *Monitor) taint(ctx context.Context, node kubeNode, taints []taint) error {
	patch := map[string]any{"metadata": map[string]any{"resourceVersion": node.Metadata.ResourceVersion}, "spec": map[string]any{"taints": taints}}
	return m.Kube.call(ctx, http.MethodPatch, "/api/v1/nodes/"+node.Metadata.Name, mergePatch, patch, nil)
}

// event leaves word at an object. That nobody takes it is no reason to stop.
func (m *Monitor) event(ctx context.Context, about reference, reason, message string) {
	namespace := cmp.Or(about.Namespace, "default")
	about.APIVersion = "v1"
	now := time.Now().UTC().Format(time.RFC3339)
	e := event{Kind: "Event", APIVersion: "v1", Metadata: meta{GenerateName: "holdfast-", Namespace: namespace}, InvolvedObject: about, Reason: reason,
		Message: message, Type: "Warning", Count: 1, FirstTimestamp: now, LastTimestamp: now, Source: map[string]string{"component": "holdfast"}}
	if err := m.Kube.call(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/events", plainJSON, e, nil); err != nil {
		m.Log.Warn("an event was not taken", "about", about.Kind+"/"+about.Name, obs.Err(err))
	}
}

// tell says at their claims what is wrong with volumes, once for each thing that is said, and
// only what was so at the last look too: that a process is replaced is nothing to read of.
func (m *Monitor) tell(ctx context.Context) error {
	ill, err := m.Volumes.ListVolumes(ctx, &holdfastv1.ListVolumesRequest{Attention: true, PageSize: 1000})
	if err != nil {
		return rpc.Fault("kube.tell", err)
	}
	wrong, told := map[string]string{}, map[string]string{}
	for _, v := range ill.Volumes {
		id, namespace, claim := v.GetMeta().GetId(), v.GetMeta().GetLabels()["namespace"], v.GetMeta().GetLabels()["pvc"]
		reason, message := complaint(v)
		if namespace == "" || claim == "" || message == "" {
			continue
		}
		wrong[id], told[id] = message, m.told[id]
		if m.wrong[id] == message && m.told[id] != message {
			m.event(ctx, reference{Kind: "PersistentVolumeClaim", Namespace: namespace, Name: claim}, reason, message)
			told[id] = message
		}
	}
	m.wrong, m.told = wrong, told
	return nil
}

// complaint returns what is wrong with a volume, in the words of its first condition.
func complaint(v *holdfastv1.Volume) (reason, message string) {
	for _, c := range v.GetStatus().GetConditions() {
		if c.GetMessage() != "" {
			return cmp.Or(c.GetReason(), "Volume"+c.GetType()), "volume " + v.GetMeta().GetName() + ": " + c.Message
		}
	}
	return "", ""
}
