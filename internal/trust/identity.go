package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// Identity is a node with what proves it. It does not change.
type Identity struct {
	Cluster     block.ClusterID
	Node        block.NodeID
	Certificate tls.Certificate // with what leads to the authority
	Authorities *x509.CertPool
}

// NewKey makes a private key for a node.
func NewKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.E("trust.NewKey", fault.Internal, block.VolumeID{}, err)
	}
	return key, nil
}

// NewCSR asks for a certificate for a key.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fault.E("trust.NewCSR", fault.Internal, block.VolumeID{}, err)
	}
	return der, nil
}

// newIdentity checks that a node's certificate, key and authorities belong together.
func newIdentity(certs []*x509.Certificate, key crypto.Signer, authorities []*x509.Certificate) (*Identity, error) {
	if len(certs) == 0 || key == nil || len(authorities) == 0 {
		return nil, errors.New("want the key, the certificate and the authority")
	}
	leaf := certs[0]
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	id := &Identity{Authorities: x509.NewCertPool()}
	id.Certificate = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range certs {
		id.Certificate.Certificate = append(id.Certificate.Certificate, c.Raw)
	}
	for _, c := range authorities {
		id.Authorities.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: id.Authorities, CurrentTime: leaf.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return nil, err
	}
	id.Cluster, id.Node, err = nodeIn(leaf)
	return id, err
}

// nodeIn returns the node that a certificate names. The certificate must be verified.
func nodeIn(cert *x509.Certificate) (cluster block.ClusterID, node block.NodeID, err error) {
	if len(cert.URIs) != 1 {
		return cluster, node, fmt.Errorf("the certificate has %d URIs, that of a node has one", len(cert.URIs))
	}
	u := cert.URIs[0]
	if cluster, err = block.ParseClusterID(u.Host); err != nil {
		return cluster, node, err
	}
	if node, err = block.ParseNodeID(u.Path[strings.LastIndexByte(u.Path, '/')+1:]); err != nil {
		return cluster, node, err
	}
	if want := link.NodeName(cluster, node); *u != *want {
		return cluster, node, fmt.Errorf("the certificate is for %s, which is no node", u)
	}
	return cluster, node, nil
}

// Ends returns when the certificate ends.
func (id *Identity) Ends() time.Time { return id.Certificate.Leaf.NotAfter }

// Renew returns when the certificate is to be renewed.
func (id *Identity) Renew() time.Time {
	from, to := id.Certificate.Leaf.NotBefore, id.Certificate.Leaf.NotAfter
	return from.Add(to.Sub(from) / 3 * 2)
}

// Credentials returns the identity for connections between coordinators and replicas.
func (id *Identity) Credentials() *link.Credentials {
	return &link.Credentials{Certificate: id.Certificate, Authority: id.Authorities}
}

// Client returns what a node needs to connect to any node of its cluster.
func (id *Identity) Client() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.Certificate},
		RootCAs:      id.Authorities,
		ServerName:   ServerName,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := id.Peer(s)
			return err
		},
	}
}

// Server returns what a server needs that nodes connect to, and also, if others is set,
// clients without certificates, who prove themselves otherwise.
func (id *Identity) Server(others bool) *tls.Config {
	c := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.Certificate},
		ClientCAs:    id.Authorities,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		// A resumed session would outlive its certificates.
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2", "http/1.1"},
	}
	if others {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c
}

// Peer returns which node of the cluster is at the other end of a connection that
// Client or Server was used for. fault.Denied when it is none.
func (id *Identity) Peer(s tls.ConnectionState) (block.NodeID, error) {
	const op = "trust.Peer"
	if len(s.VerifiedChains) == 0 {
		return block.NodeID{}, fault.Errorf(op, fault.Denied, "the peer has no certificate of this cluster")
	}
	cluster, node, err := nodeIn(s.VerifiedChains[0][0])
	if err == nil && cluster != id.Cluster {
		err = fmt.Errorf("the peer belongs to cluster %s, this node to %s", cluster, id.Cluster)
	}
	return node, fault.Wrap(op, kinded(fault.Denied, err))
}

// kinded gives an error a kind.
func kinded(kind fault.Kind, err error) error {
	if err == nil {
		return nil
	}
	return fault.E("trust", kind, block.VolumeID{}, err)
}
