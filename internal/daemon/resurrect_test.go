package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/dump"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// TestAMachineIsWhoItsPoolsSayWhenAClusterBeginsAgain begins a cluster again from a dump of it.
func TestAMachineIsWhoItsPoolsSayWhenAClusterBeginsAgain(t *testing.T) {
	cluster, first, second, stranger := block.ClusterID{1}, block.NodeID{1}, block.NodeID{2}, block.NodeID{3}
	authority, err := trust.NewAuthority(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store := memory.New()
	defer store.Close()
	node := func(id block.NodeID, name string) state.Op {
		return state.Nodes.Create(id.String(), &v1.Node{Meta: &v1.Meta{Id: id.String(), Name: name}})
	}
	if _, err := store.Commit(t.Context(), state.Create(state.AuthorityKey, authority.Marshal()), node(first, "n1"), node(second, "n2")); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := dump.Write(t.Context(), store, &dump.Header{Cluster: cluster.String()}, &raw); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.dump")
	if err := os.WriteFile(file, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		was  identity
		want block.NodeID
		says string // of the refusal
	}{
		{"new-name", identity{Cluster: cluster, Node: second}, second, ""},
		{"n1", identity{}, first, ""},
		{"n7", identity{}, block.NodeID{}, "(n1, n2)"},
		{"n1", identity{Cluster: cluster, Node: stranger}, block.NodeID{}, "does not know node " + stranger.String()},
		{"n1", identity{Cluster: block.ClusterID{9}, Node: first}, block.NodeID{}, "belong to cluster"},
	} {
		o := &NodeOptions{Config: Config{DataDir: t.TempDir(), Name: x.name, Address: "127.0.0.1", Restore: file}, Log: slog.New(slog.DiscardHandler)}
		id, err := o.resurrect(x.was)
		if x.says != "" {
			if what, cure := fault.Describe(err); !fault.Is(err, fault.Precondition) || cure == "" || !strings.Contains(what+cure, x.says) {
				t.Errorf("%+v: %v", x, err)
			}
			continue
		}
		if err != nil || id.Node != x.want || id.Cluster != cluster {
			t.Errorf("%+v: %v, %v", x, id, err)
			continue
		}
		w, err := trust.OpenWallet(o.Config.trustDir())
		if err != nil || w.Identity().Node != x.want || w.Identity().Cluster != cluster {
			t.Errorf("%+v: the wallet is another's, %v", x, err)
		}
		if kept, err := os.ReadFile(o.Config.restoreFile()); err != nil || !bytes.Equal(kept, raw.Bytes()) {
			t.Errorf("%+v: the dump does not wait to be restored: %v", x, err)
		}
	}
}
