package daemon

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// identity is who a node is. Its certificate says it; the file in its pools says it too, so
// that a machine whose system disk was replaced is known by its data.
type identity struct {
	Cluster  block.ClusterID `json:"cluster"`
	Node     block.NodeID    `json:"node"`
	founding bool            // this node is making the cluster
}

// markFile is in every pool of a node.
const markFile = "holdfast-node.json"

// identify finds out who the node is, joins a cluster, or makes one.
func (o *NodeOptions) identify(ctx context.Context) (identity, error) {
	c := &o.Config
	w, err := trust.OpenWallet(c.trustDir())
	if err == nil {
		id := identity{Cluster: w.Identity().Cluster, Node: w.Identity().Node}
		_, err := os.Stat(c.foundingFile())
		id.founding = err == nil
		if c.Restore != "" {
			o.Log.Warn("this machine is a node already: --restore is not looked at. See holdfast metadata restore", "node", id.Node)
		}
		if c.Join != "" && time.Now().After(w.Identity().Ends()) {
			return o.join(ctx, id) // it was away for too long to renew its certificate
		}
		return id, nil
	}
	if !fault.Is(err, fault.NotFound) && c.Join == "" {
		return identity{}, err
	}
	known := o.marked()
	switch {
	case c.Join != "":
		return o.join(ctx, known)
	case c.Restore != "":
		return o.resurrect(known)
	}
	if !known.Node.IsZero() {
		return identity{}, fault.WithCure(fault.Errorf("daemon.Node", fault.Precondition,
			"the pools here belong to node %s of cluster %s, but %s has no certificate for it", known.Node, known.Cluster, c.DataDir),
			"let the node join its cluster again: holdfast node --join ADDRESS --token TOKEN; if all its nodes are lost, begin it again: holdfast node --restore DUMP")
	}
	return o.found()
}

// marked returns who the node was, as its pools say.
func (o *NodeOptions) marked() (id identity) {
	for _, path := range o.Config.Pools {
		raw, err := os.ReadFile(filepath.Join(path, markFile))
		if err == nil && json.Unmarshal(raw, &id) == nil && !id.Node.IsZero() {
			o.Log.Info("the pools of this machine say which node it was", "node", id.Node, "pool", path)
			return id
		}
	}
	return identity{}
}

// found makes a cluster, of which this is the first node. What it makes is put into the
// metadata by control.
func (o *NodeOptions) found() (id identity, err error) {
	const op = "daemon.found"
	c := &o.Config
	if id.Cluster, err = block.NewClusterID(rand.Reader); err != nil {
		return id, fault.Wrap(op, err)
	}
	if id.Node, err = block.NewNodeID(rand.Reader); err != nil {
		return id, fault.Wrap(op, err)
	}
	authority, err := trust.NewAuthority(id.Cluster, time.Now())
	if err != nil {
		return id, err
	}
	key, err := trust.NewKey()
	if err != nil {
		return id, err
	}
	cert, err := authority.Issue(trust.Request{Node: id.Node, PublicKey: key.Public(), Addresses: c.addresses()}, time.Now())
	if err != nil {
		return id, err
	}
	if err := replace(c.foundingFile(), authority.Marshal()); err != nil {
		return id, fault.Wrap(op, err)
	}
	if !c.external() {
		if err := member.Found(c.etcdDir(), id.Cluster.String(), 0); err != nil {
			return id, err
		}
		if err := replace(c.endpointsFile(), []byte(c.clientURL()+"\n")); err != nil {
			return id, fault.Wrap(op, err)
		}
	}
	id.founding = true
	// Last, because who has a certificate is somebody.
	return id, trust.Fill(c.trustDir(), key, cert, [][]byte{authority.Certificate()})
}

// addresses are those of the node's certificate.
func (c *Config) addresses() []string {
	out := append([]string{c.Address, c.Name}, c.Names...)
	if ip := net.ParseIP(c.Listen); ip != nil && ip.IsUnspecified() {
		out = append(out, "localhost", "127.0.0.1", "::1")
	}
	return out
}

// join makes this machine a node of a cluster: the one that it was, if was says so.
func (o *NodeOptions) join(ctx context.Context, was identity) (identity, error) {
	const op = "daemon.join"
	c := &o.Config
	token, err := trust.ParseJoinToken(c.Token)
	if err != nil {
		return was, err
	}
	key, err := trust.NewKey()
	if err != nil {
		return was, err
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		return was, err
	}
	r := &v1.JoinRequest{Token: c.Token, Csr: csr, Name: c.Name, Labels: c.Labels, Region: c.Region, Zone: c.Zone, Rack: c.Rack,
		Addresses: c.addresses(), PeerAddress: c.at(c.PeerPort)}
	// The id is kept before it is told: a machine that loses power now, and tries again, is
	// not another one.
	if r.NodeId, err = c.joiningAs(was); err != nil {
		return was, err
	}
	answer, err := o.ask(ctx, token, r)
	if err != nil {
		_, cure := fault.Describe(err)
		err = fault.Errorf(op, fault.KindOf(err), "the cluster at %s does not let this node in: %w", c.Join, err)
		if cure == "" {
			err = fault.WithCure(err, "see that the address and the token are right, and that a node is up there")
		}
		return was, err
	}
	return o.joined(key, answer)
}

// joiningAs returns the id with which the node joins: the one that it had, or one that it
// keeps until it has joined.
func (c *Config) joiningAs(was identity) (string, error) {
	const op = "daemon.join"
	if !was.Node.IsZero() {
		return was.Node.String(), nil
	}
	if raw, err := os.ReadFile(c.joiningFile()); err == nil {
		if id, err := block.ParseNodeID(strings.TrimSpace(string(raw))); err == nil {
			return id.String(), nil
		}
	}
	id, err := block.NewNodeID(rand.Reader)
	if err != nil {
		return "", fault.Wrap(op, err)
	}
	return id.String(), fault.Wrap(op, replace(c.joiningFile(), []byte(id.String()+"\n")))
}

// joinPatience is how long a node tries to reach the one through which it is to join.
const joinPatience = 2 * time.Minute

// ask sends the request, again and again while nobody answers.
func (o *NodeOptions) ask(ctx context.Context, token trust.JoinToken, r *v1.JoinRequest) (*v1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	address := o.Config.Join
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, strconv.Itoa(o.Config.APIPort))
	}
	transport := &http.Transport{TLSClientConfig: token.Client(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := holdfastv1connect.NewClusterServiceClient(&http.Client{Transport: transport}, "https://"+address)
	for {
		answer, err := client.Join(ctx, r)
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, new(*fault.Error)): // the server is not the one that the token names
			return nil, err
		case connect.CodeOf(err) != connect.CodeUnavailable || ctx.Err() != nil:
			return nil, rpc.Fault("daemon.join", err)
		}
		o.Log.Warn("the node through which to join can't be reached; trying again", "address", address, "error", err)
		pause(ctx, time.Second)
	}
}

// joined keeps what the cluster answered.
func (o *NodeOptions) joined(key crypto.Signer, a *v1.JoinResponse) (id identity, err error) {
	const op = "daemon.join"
	c := &o.Config
	if id.Cluster, err = block.ParseClusterID(a.GetClusterId()); err == nil {
		id.Node, err = block.ParseNodeID(a.GetNode().GetMeta().GetId())
	}
	if err != nil {
		return id, fault.E(op, fault.Internal, block.VolumeID{}, fmt.Errorf("the answer names nobody: %w", err))
	}
	if !c.external() {
		if len(a.GetMetadataEndpoints()) == 0 {
			return id, fault.WithCure(fault.Errorf(op, fault.Invalid, "this cluster keeps its metadata in an etcd of its own"),
				"give this node the same --etcd-endpoints as the others")
		}
		text := strings.Join(a.GetMetadataEndpoints(), "\n") + "\n"
		if err := replace(c.endpointsFile(), []byte(text)); err != nil {
			return id, fault.Wrap(op, err)
		}
	}
	if err := os.Remove(c.foundingFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return id, fault.Wrap(op, err)
	}
	if err := trust.Fill(c.trustDir(), key, a.GetCertificate(), a.GetAuthorities()); err != nil {
		return id, err
	}
	o.Log.Info("this node has joined", "cluster", a.GetClusterName(), "node", id.Node)
	_ = os.Remove(c.joiningFile()) // it would say the same
	return id, nil
}

// pools makes the pools that are none yet, and marks all as this node's.
func (o *NodeOptions) pools(ctx context.Context, id identity) error {
	mark, err := json.Marshal(id)
	if err != nil {
		return fault.E("daemon.pools", fault.Internal, block.VolumeID{}, err)
	}
	known := o.Config.knownPools()
	for i, path := range o.Config.Pools {
		path, err := filepath.Abs(path)
		if err != nil {
			return fault.Wrap("daemon.pools", err)
		}
		o.Config.Pools[i] = path
		if _, err := os.Stat(filepath.Join(path, "pool.json")); err != nil && slices.Contains(known, path) {
			// To make another one there would be to take an empty mount point for a disk.
			o.Log.Error("a pool that was here is not: is its disk there, and mounted? The node goes on without it; if another is wanted there: holdfast pool create PATH --cluster CLUSTER", "pool", path, "cluster", id.Cluster)
			continue
		}
		if err := o.makePool(ctx, path, id); err != nil {
			return err
		}
		if err := replace(filepath.Join(path, markFile), mark); err != nil {
			return fault.Wrap("daemon.pools", err)
		}
		if !slices.Contains(known, path) {
			known = append(known, path)
		}
	}
	return fault.Wrap("daemon.pools", replace(o.Config.poolsFile(), []byte(strings.Join(known, "\n")+"\n")))
}

// knownPools returns where pools of this node were found or made at earlier starts.
func (c *Config) knownPools() []string {
	raw, _ := os.ReadFile(c.poolsFile()) // none: this is the first start
	return slices.DeleteFunc(strings.Split(string(raw), "\n"), func(path string) bool { return path == "" })
}

// makePool makes a pool where there is none.
func (o *NodeOptions) makePool(ctx context.Context, path string, id identity) error {
	if _, err := os.Stat(filepath.Join(path, "pool.json")); err == nil {
		return nil
	}
	create := pool.CreateOptions{Path: path, Cluster: id.Cluster}
	if o.Config.PoolSize != "" {
		size, err := parseSize(o.Config.PoolSize)
		if err != nil {
			return err
		}
		create.Kind, create.SizeBytes = pool.Image, size
	}
	p, err := pool.Create(ctx, create)
	if err != nil {
		return err
	}
	o.Log.Info("made a pool", "path", path, "kind", p.Identity().Kind, "class", p.Identity().Class)
	return p.Close() // the data process opens it
}

// parseSize reads a number of bytes such as 20Gi.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "KMGTi")
	n, err := strconv.ParseInt(digits, 10, 64)
	units := map[string]int64{"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
	unit, known := units[text[len(digits):]]
	if err != nil || !known || n <= 0 || n > (1<<62)/unit {
		return 0, fault.WithCure(fault.Errorf("daemon.pools", fault.Invalid, "%q is no size", text), "give one such as 20Gi")
	}
	return n * unit, nil
}
