package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// wires join the nodes of a cluster that have a network namespace each. They can be cut.
type wires struct {
	t      *testing.T
	prefix string // of names; the kernel allows 15 characters
	nodes  []*node
}

var bridges atomic.Int32

// newWiredCluster starts a cluster whose nodes have networks of their own.
func newWiredCluster(t *testing.T, count int) *cluster {
	c := prepare(t)
	c.wires = &wires{t: t, prefix: fmt.Sprintf("h%d-%d", os.Getpid(), bridges.Add(1))}
	sh(t, `ip link add "$1" type bridge; ip link set "$1" up`, c.wires.bridge())
	c.grow(count)
	return c
}

func (w *wires) bridge() string { return w.prefix + "b" }

func (w *wires) space(n *node) string { return fmt.Sprintf("%sn%d", w.prefix, n.i+1) }

func (w *wires) address(n *node) string { return fmt.Sprintf("10.177.0.%d", n.i+1) }

// plug makes a node's namespace.
func (w *wires) plug(n *node) {
	w.nodes = append(w.nodes, n)
	sh(w.t, `
		ip netns add "$1"
		ip link add "$1" type veth peer name eth0 netns "$1"
		ip link set "$1" master "$2" up
		ip -n "$1" address add "$3/24" dev eth0
		ip -n "$1" link set lo up
		ip -n "$1" link set eth0 up`, w.space(n), w.bridge(), w.address(n))
}

// inside begins a command that runs in a node's network, and in nothing else of its own.
func (w *wires) inside(n *node) []string {
	return []string{"nsenter", "--net=/run/netns/" + w.space(n)}
}

// The port of the traffic between replicas.
const dataPort = "7401"

// cut has a node's packets vanish, silently. rules are nftables' expressions, each of a
// direction and what is lost, such as "input tcp dport 7401".
func (w *wires) cut(n *node, rules ...string) {
	script := "table inet cut {\n"
	for _, way := range []string{"input", "output"} {
		at := map[string]string{"input": "iifname", "output": "oifname"}[way]
		script += "chain " + way + " { type filter hook " + way + " priority 0;\n"
		for _, rule := range rules {
			if what, ok := strings.CutPrefix(rule, way); ok {
				script += at + " eth0 " + what + " drop\n"
			}
		}
		script += "}\n"
	}
	sh(w.t, `printf %s "$2" | nsenter --net=/run/netns/"$1" nft -f -`, w.space(n), script+"}\n")
}

// everything and storage are what to cut.
var (
	everything = []string{"input", "output"}
	storage    = []string{"input tcp dport " + dataPort, "input tcp sport " + dataPort, "output tcp dport " + dataPort, "output tcp sport " + dataPort}
)

// mend ends a cut.
func (w *wires) mend(n *node) {
	sh(w.t, `nsenter --net=/run/netns/"$1" nft delete table inet cut`, w.space(n))
}

// remove takes all wires away.
func (w *wires) remove() {
	for _, n := range w.nodes {
		sh(w.t, `ip netns delete "$1"; ip link delete "$1" 2>/dev/null || true`, w.space(n))
	}
	sh(w.t, `ip link delete "$1"`, w.bridge())
}
