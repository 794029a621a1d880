package kube

import "slices"

// The parts of Kubernetes' objects that are needed, under Kubernetes' names.

type meta struct {
	Name            string            `json:"name,omitempty"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	OwnerReferences []owner           `json:"ownerReferences,omitempty"`
	GenerateName    string            `json:"generateName,omitempty"`
}

type owner struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

type taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
	Added  string `json:"timeAdded,omitempty"`
}

type kubeNode struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Taints []taint `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// ready reports whether Kubernetes believes in the node.
func (n kubeNode) ready() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

type csiNode struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Drivers []struct {
			Name   string `json:"name"`
			NodeID string `json:"nodeID"`
		} `json:"drivers"`
	} `json:"spec"`
}

type lease struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		RenewTime string `json:"renewTime"`
	} `json:"spec"`
}

type attachment struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Attacher string `json:"attacher"`
		NodeName string `json:"nodeName"`
		Source   struct {
			PersistentVolumeName string `json:"persistentVolumeName"`
		} `json:"source"`
	} `json:"spec"`
}

type persistentVolume struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		CSI *struct {
			Driver       string `json:"driver"`
			VolumeHandle string `json:"volumeHandle"`
		} `json:"csi"`
		ClaimRef *struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
			UID       string `json:"uid"`
		} `json:"claimRef"`
	} `json:"spec"`
}

type pod struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
		Volumes  []struct {
			Name  string `json:"name"`
			Claim *struct {
				ClaimName string `json:"claimName"`
			} `json:"persistentVolumeClaim"`
			Ephemeral *struct{} `json:"ephemeral"`
		} `json:"volumes"`
	} `json:"spec"`
}

// claims returns the names of the claims that a pod uses, those made for it included.
func (p pod) claims() (names []string) {
	for _, v := range p.Spec.Volumes {
		switch {
		case v.Claim != nil:
			names = append(names, v.Claim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, p.Metadata.Name+"-"+v.Name)
		}
	}
	return names
}

// ofDaemonSet reports whether a pod belongs to its node.
func (p pod) ofDaemonSet() bool {
	return slices.ContainsFunc(p.Metadata.OwnerReferences, func(o owner) bool { return o.Kind == "DaemonSet" || o.Kind == "Node" })
}

type reference struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion,omitempty"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
	UID        string `json:"uid,omitempty"`
}

type event struct {
	Kind           string            `json:"kind"`
	APIVersion     string            `json:"apiVersion"`
	Metadata       meta              `json:"metadata"`
	InvolvedObject reference         `json:"involvedObject"`
	Reason         string            `json:"reason"`
	Message        string            `json:"message"`
	Type           string            `json:"type"`
	Count          int               `json:"count"`
	FirstTimestamp string            `json:"firstTimestamp"`
	LastTimestamp  string            `json:"lastTimestamp"`
	Source         map[string]string `json:"source"`
}
