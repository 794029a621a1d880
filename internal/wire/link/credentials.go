package link

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Credentials prove which node this is, and tell whom to believe.
type Credentials struct {
	// Certificate has NodeName as its only URI, is good for both ends of a connection
	// (client and server authentication), and comes with what leads to the authority.
	Certificate tls.Certificate
	// Authority is the cluster's own. Whoever it certifies is a node of the cluster.
	Authority *x509.CertPool
	// Removed, unless nil, says of a node whether it was taken out of the cluster. Then its
	// certificate is worth nothing.
	Removed func(block.NodeID) bool
}

// NodeName returns what a certificate calls a node: its SPIFFE id,
// spiffe://<cluster>/node/<node>.
func NodeName(cluster block.ClusterID, node block.NodeID) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: cluster.String(), Path: nodePath + node.String()}
}

const nodePath = "/node/"

// protocol keeps a connection that was meant for another server from getting through.
const protocol = "holdfast-wire"

// config returns what an end of a connection needs for TLS with a peer that may be used
// for usage; it says in proved who that is. Names are URIs, which package tls does not
// compare itself, so all of the verification is ours.
func (c *Credentials) config(cluster block.ClusterID, usage x509.ExtKeyUsage, proved *block.NodeID) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Certificate},
		NextProtos:             []string{protocol},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection does it
		SessionTicketsDisabled: true, // a resumed session would outlive its certificates
		// A connection carries bulk data from the start: no small records to begin with.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) (err error) {
			*proved, err = c.verify(s, cluster, usage)
			return err
		},
	}
}

// verify returns the node that the peer of a connection has proved to be.
func (c *Credentials) verify(s tls.ConnectionState, cluster block.ClusterID, usage x509.ExtKeyUsage) (block.NodeID, error) {
	const op = "link.verify"
	if len(s.PeerCertificates) == 0 {
		return block.NodeID{}, fault.Errorf(op, fault.Denied, "the peer has no certificate")
	}
	leaf, between := s.PeerCertificates[0], x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.Authority, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return block.NodeID{}, fault.E(op, fault.Denied, block.VolumeID{},
			fmt.Errorf("the peer's certificate (%q) is not one of this cluster's: %w", leaf.Subject, err))
	}
	of, node, err := readName(leaf)
	if err == nil && of != cluster {
		err = fmt.Errorf("the peer belongs to cluster %s, this node to %s", of, cluster)
	}
	if err != nil {
		return block.NodeID{}, fault.E(op, fault.Denied, block.VolumeID{}, err)
	}
	if c.Removed != nil && c.Removed(node) {
		return block.NodeID{}, fault.Errorf(op, fault.Denied, "node %s was removed from the cluster", node)
	}
	return node, nil
}

// readName returns what a certificate that NodeName is in names.
func readName(cert *x509.Certificate) (cluster block.ClusterID, node block.NodeID, err error) {
	if len(cert.URIs) != 1 {
		return cluster, node, fmt.Errorf("the peer's certificate (%q) has %d URIs, the name of a node is one", cert.Subject, len(cert.URIs))
	}
	u := cert.URIs[0]
	id, ok := strings.CutPrefix(u.Path, nodePath)
	if !ok {
		return cluster, node, fmt.Errorf("the peer's certificate is for %q, which is no node", u)
	}
	if cluster, err = block.ParseClusterID(u.Host); err == nil {
		node, err = block.ParseNodeID(id)
	}
	if err == nil && *u != *NodeName(cluster, node) {
		err = fmt.Errorf("want %s", NodeName(cluster, node))
	}
	if err != nil {
		return cluster, node, fmt.Errorf("the peer's certificate is for %q, which is no node: %w", u, err)
	}
	return cluster, node, nil
}
