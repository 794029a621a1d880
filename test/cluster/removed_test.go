package cluster_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// TestARemovedNodeIsLetInNowhere removes a node, and tries with its certificate, which is
// good for weeks, what it could do before. Then the machine joins anew.
func TestARemovedNodeIsLetInNowhere(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.start()
	n1.ready(1)
	token := n1.token(0)
	n2.start("--join", n1.address, "--token", token)
	n2.ready(2)
	member := filepath.Join(n2.dir, "etcd", "member.json")
	c.await("the second member", func() error {
		s, err := n1.cluster().GetStatus(t.Context(), &v1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, m := range s.GetMetadata().GetMembers() {
			if m.Learner && m.Healthy {
				_, err := os.Stat(member)
				return err
			}
		}
		return fmt.Errorf("%v", s.GetMetadata())
	})

	kept := filepath.Join(c.dir, "kept")
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(n2.dir, "trust"))); err != nil {
		t.Fatal(err)
	}
	wallet, err := trust.OpenWallet(kept)
	if err != nil {
		t.Fatal(err)
	}
	open := func() *etcd.Store {
		s, err := etcd.Open(etcd.Options{Endpoints: []string{"https://" + n1.address + ":7402"}, TLS: wallet.Client()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	early := open()
	api := holdfastv1connect.NewClusterServiceClient(&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: wallet.Client()}}, "https://"+n1.address+":7400")
	if _, err := api.WhoAmI(t.Context(), &v1.WhoAmIRequest{}); err != nil {
		t.Fatal("before it was removed: ", err)
	}
	if _, err := early.Get(t.Context(), state.ClusterKey); err != nil {
		t.Fatal("before it was removed: ", err)
	}

	nodes := holdfastv1connect.NewNodeServiceClient(n1.client(), "http://holdfast")
	r, err := nodes.RemoveNode(t.Context(), &v1.RemoveNodeRequest{Node: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	operations := holdfastv1connect.NewOperationServiceClient(n1.client(), "http://holdfast")
	c.await("the end of the removal", func() error {
		o, err := operations.WaitOperation(t.Context(), &v1.WaitOperationRequest{Id: r.GetOperation().GetId(), Wait: durationpb.New(5 * time.Second)})
		if err == nil && (!o.Done || o.Error != "") {
			err = fmt.Errorf("%v", o)
		}
		return err
	})
	for who, s := range map[string]*etcd.Store{"a connection of before": early, "a new connection": open()} {
		c.await(who+" to be refused by the metadata", func() error {
			_, err := s.Get(t.Context(), state.ClusterKey)
			if !fault.Is(err, fault.Denied) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
	}
	if _, err := api.WhoAmI(t.Context(), &v1.WhoAmIRequest{}); err == nil {
		t.Error("the API lets it in")
	}

	c.await("the machine to put its member of the metadata aside", func() error {
		_, err := os.Stat(member)
		if err == nil {
			err = errors.New("it is there")
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	})
	n2.kill("node", "control", "data", "keeper")
	for _, dir := range []string{"trust", "etcd"} { // as the refusal says
		if err := os.Rename(filepath.Join(n2.dir, dir), filepath.Join(n2.dir, dir+".before")); err != nil {
			t.Fatal(err)
		}
	}
	n2.start("--join", n1.address, "--token", token)
	n2.ready(2)
	n2.stop()
	n1.stop()
}

// TestTheMemberOfARemovedNodeGoesWithIt removes a node that was down already: nobody there
// gives its vote away, and no other node can take its place.
func TestTheMemberOfARemovedNodeGoesWithIt(t *testing.T) {
	c := newCluster(t, 3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	n1.start()
	n1.ready(1)
	token := n1.token(0)
	for i, n := range c.nodes[1:] {
		n.start("--join", n1.address, "--token", token)
		n.ready(int32(i + 2))
	}
	n1.voters(n1, n2, n3)
	n3.kill("node", "control", "data", "keeper")
	c.await("the node to be down, and nothing to be heard of it", func() error {
		s, err := n1.cluster().GetStatus(t.Context(), &v1.GetStatusRequest{})
		if err == nil && s.GetNodes().GetDown() != 1 {
			err = fmt.Errorf("%v", s.GetNodes())
		}
		return err
	})
	nodes := holdfastv1connect.NewNodeServiceClient(n1.client(), "http://holdfast")
	if _, err := nodes.RemoveNode(t.Context(), &v1.RemoveNodeRequest{Node: n3.name}); err != nil {
		t.Fatal(err)
	}
	n1.voters(n1, n2)
	n2.stop()
	n1.stop()
}
