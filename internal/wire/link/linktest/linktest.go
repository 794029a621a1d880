// Package linktest makes certificates for tests and benchmarks of connections: a
// cluster's authority, kept in memory, that certifies whoever asks.
package linktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// Authority is the certificate authority of a cluster. Its methods are for any goroutine.
type Authority struct {
	cluster block.ClusterID
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	pool    *x509.CertPool
}

// NewAuthority returns the authority of a cluster.
func NewAuthority(cluster block.ClusterID) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "cluster " + cluster.String()},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &Authority{cluster: cluster, root: root, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(root)
	return a, nil
}

// Issue returns credentials for a node of the cluster, good for an hour.
func (a *Authority) Issue(node block.NodeID) (*link.Credentials, error) {
	return a.IssueFor(&x509.Certificate{URIs: []*url.URL{link.NodeName(a.cluster, node)}})
}

// IssueFor returns credentials with what the template says; times, serial number and key
// usage are filled in where it says nothing.
func (a *Authority) IssueFor(template *x509.Certificate) (*link.Credentials, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(2)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &link.Credentials{
		Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		Authority:   a.pool,
	}, nil
}
