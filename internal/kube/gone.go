package kube

import (
	"fmt"
	"time"
)

// sight is what is known of one node at one moment, from both sides.
type sight struct {
	name        string // in Kubernetes
	leaseEnded  bool   // Holdfast's
	maintenance bool   // somebody said that it may be away
	renewed     string // when the kubelet says that it renewed its lease
	exists      bool   // Kubernetes has the node
	ready       bool   // Kubernetes believes in it
}

// Patience says how long silence has to last before a node counts as gone.
type Patience struct {
	Holdfast time.Duration // since its lease in Holdfast has been over; the lease itself lasts 10 s
	Kubelet  time.Duration // since the kubelet renewed its lease last; it does so every 10 s
}

// DefaultPatience is two and a half of the kubelet's renewals.
var DefaultPatience = Patience{Holdfast: 5 * time.Second, Kubelet: 25 * time.Second}

// watchman tells which nodes are gone, from what is seen again and again. It trusts no
// clock but its own: a lease counts as renewed when its text changes.
type watchman struct {
	patience Patience
	nodes    map[string]*silence
	looked   time.Duration // when it looked last; 0 never
}

// silence is since when a node has said nothing, by the watchman's clock.
type silence struct {
	renewed string
	kubelet time.Duration // since when renewed has been the same
	ended   time.Duration // since when Holdfast's lease has been over; negative: it is not
}

// lookMax is the longest pause between two looks: after a longer one, what was silent
// before may have spoken in between, and it counts from anew.
const lookMax = 20 * time.Second

// look takes what is seen at now, and returns, for each node that is provably gone, why.
// It names none when half of the nodes or more seem to be gone: then it is we who are cut
// off, or something is wrong that releasing volumes would not mend.
func (w *watchman) look(now time.Duration, seen []sight) (gone map[string]string, held string) {
	if w.nodes == nil || now-w.looked > lookMax {
		w.nodes = map[string]*silence{}
	}
	w.looked = now
	gone = map[string]string{}
	known := map[string]bool{}
	for _, s := range seen {
		known[s.name] = true
		if why := w.verdict(now, s); why != "" {
			gone[s.name] = why
		}
	}
	for name := range w.nodes {
		if !known[name] {
			delete(w.nodes, name)
		}
	}
	if n := len(gone); n > 0 && 2*n >= len(seen) {
		return nil, fmt.Sprintf("%d of %d nodes seem to be gone: nothing is released", n, len(seen))
	}
	return gone, ""
}

// verdict returns why a node is gone, or "".
func (w *watchman) verdict(now time.Duration, s sight) string {
	n := w.nodes[s.name]
	if n == nil {
		n = &silence{renewed: s.renewed, kubelet: now, ended: -1}
		w.nodes[s.name] = n
	}
	if n.renewed != s.renewed {
		n.renewed, n.kubelet = s.renewed, now
	}
	switch {
	case !s.leaseEnded:
		n.ended = -1
		return ""
	case n.ended < 0:
		n.ended = now
	}
	storage, kubelet := now-n.ended, now-n.kubelet
	switch {
	case s.maintenance, storage < w.patience.Holdfast:
		return ""
	case !s.exists:
		return "its lease in Holdfast has ended, and Kubernetes has no such node"
	case kubelet >= w.patience.Kubelet:
		return fmt.Sprintf("its lease in Holdfast has ended, and its kubelet has said nothing for %s", kubelet.Round(time.Second))
	}
	return ""
}
