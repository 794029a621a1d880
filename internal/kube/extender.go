package kube

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Extender is a scheduler extender that only has preferences: a node scores by how many of
// a pod's volumes have an in-sync copy there. Reads then stay on the node.
type Extender struct {
	Kube    *Client
	Volumes holdfastv1connect.VolumeServiceClient
	Log     *slog.Logger
}

// scoreMax is the highest score that the scheduler takes from an extender.
const scoreMax = 10

type extenderArgs struct {
	Pod       pod
	NodeNames *[]string
	Nodes     *struct{ Items []kubeNode }
}

type hostScore struct {
	Host  string
	Score int64
}

// requestMax is the longest question, in bytes: a scheduler that keeps no cache sends nodes whole.
const requestMax = 64 << 20

// ServeHTTP answers POST /prioritize. What can't be found out is no preference: a pod is
// never kept from being scheduled.
func (e *Extender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/prioritize" {
		http.NotFound(w, r)
		return
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, requestMax))
	var args extenderArgs
	if err == nil {
		err = json.Unmarshal(raw, &args)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	copies, volumes, err := e.copies(r.Context(), args.Pod)
	if err != nil {
		e.Log.Warn("a pod's data was not found", "pod", args.Pod.Metadata.Namespace+"/"+args.Pod.Metadata.Name, obs.Err(err))
	}
	w.Header().Set("Content-Type", plainJSON)
	_ = json.NewEncoder(w).Encode(score(args.hosts(), copies, volumes)) // the scheduler went away: nothing to be done
}

// hosts returns the nodes that are asked about.
func (a extenderArgs) hosts() (names []string) {
	if a.NodeNames != nil {
		return *a.NodeNames
	}
	if a.Nodes != nil {
		for _, n := range a.Nodes.Items {
			names = append(names, n.Metadata.Name)
		}
	}
	return names
}

// score gives each host its share of the pod's volumes.
func score(hosts []string, copies map[string]int, volumes int) []hostScore {
	scores := make([]hostScore, 0, len(hosts))
	for _, h := range hosts {
		s := hostScore{Host: h}
		if volumes > 0 {
			s.Score = int64(scoreMax * copies[h] / volumes)
		}
		scores = append(scores, s)
	}
	return scores
}

// copies counts, for each node, how many of a pod's volumes have an in-sync copy there, and
// how many volumes of ours the pod has.
func (e *Extender) copies(ctx context.Context, p pod) (copies map[string]int, volumes int, err error) {
	copies = map[string]int{}
	var names map[string]string // of nodes in Kubernetes, by our id
	for _, claim := range p.claims() {
		handle, err := e.handle(ctx, p.Metadata.Namespace, claim)
		if err != nil {
			return copies, volumes, err
		}
		if handle == "" {
			continue
		}
		if names == nil {
			if names, err = nodeNames(ctx, e.Kube); err != nil {
				return copies, volumes, err
			}
		}
		v, err := e.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: handle})
		if err != nil {
			return copies, volumes, rpc.Fault("kube.copies", err)
		}
		volumes++
		for _, r := range v.GetStatus().GetReplicas() {
			if r.GetState() == holdfastv1.ReplicaState_REPLICA_STATE_IN_SYNC && r.GetReachable() {
				copies[names[r.GetNodeId()]]++
			}
		}
	}
	return copies, volumes, nil
}

// handle returns our id of a claim's volume, or "" when it has none, or one that is not ours.
func (e *Extender) handle(ctx context.Context, namespace, claim string) (string, error) {
	var c struct {
		Spec struct {
			VolumeName string `json:"volumeName"`
		} `json:"spec"`
	}
	err := e.Kube.call(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/persistentvolumeclaims/"+claim, "", nil, &c)
	if fault.Is(err, fault.NotFound) || err == nil && c.Spec.VolumeName == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var v persistentVolume
	if err := e.Kube.call(ctx, http.MethodGet, "/api/v1/persistentvolumes/"+c.Spec.VolumeName, "", nil, &v); err != nil {
		return "", err
	}
	if v.Spec.CSI == nil || v.Spec.CSI.Driver != csi.DriverName {
		return "", nil
	}
	return v.Spec.CSI.VolumeHandle, nil
}

// nodeNames returns how Kubernetes calls our nodes.
func nodeNames(ctx context.Context, c *Client) (map[string]string, error) {
	listed, err := list[csiNode](ctx, c, "/apis/storage.k8s.io/v1/csinodes", nil)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, n := range listed {
		if id := holdfastNode(n); id != "" {
			names[id] = n.Metadata.Name
		}
	}
	return names, nil
}
