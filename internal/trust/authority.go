// Package trust is who belongs to a cluster, and how it proves it: the cluster's own
// certificate authority, the certificates of its nodes, the tokens with which machines
// join, and those with which people and programs call the API.
//
// It promises nothing about where these are kept: that is its callers' business. A node's
// own certificate and key are files ([Wallet]); the authority and the keyring are in the
// cluster's state, where every node can read them, so that the cluster can admit nodes for
// as long as it has any. Who holds one node's files therefore holds the cluster.
//
// All connections between nodes are TLS 1.3 with certificates at both ends. A node is
// known by the URI in its certificate ([link.NodeName]); in TLS's own check of names it is
// called [ServerName], so that addresses may change and be translated.
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// ServerName is the DNS name that every node's certificate has.
const ServerName = "node.holdfast"

// How long certificates are good. A node's is renewed when two thirds of its time are over.
const (
	authorityYears = 20
	certificateTTL = 60 * 24 * time.Hour
	clockSkew      = 10 * time.Minute // by which a certificate begins early
)

// The types of PEM blocks.
const (
	certificateBlock = "CERTIFICATE"
	privateKeyBlock  = "PRIVATE KEY"
)

// Authority certifies the nodes of one cluster. It does not change.
type Authority struct {
	cluster block.ClusterID
	cert    *x509.Certificate
	key     crypto.Signer
}

// NewAuthority makes the authority of a cluster.
func NewAuthority(cluster block.ClusterID, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.E("trust.NewAuthority", fault.Internal, block.VolumeID{}, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Holdfast cluster " + cluster.String()},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: cluster.String()}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.E("trust.NewAuthority", fault.Internal, block.VolumeID{}, err)
	}
	return newAuthority(der, key)
}

func newAuthority(der []byte, key crypto.Signer) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA || len(cert.URIs) != 1 {
		return nil, errors.New("the certificate is not that of a cluster's authority")
	}
	cluster, err := block.ParseClusterID(cert.URIs[0].Host)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	return &Authority{cluster: cluster, cert: cert, key: key}, nil
}

func serial() *big.Int {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	n, err := rand.Int(rand.Reader, limit)
	if err != nil { // crypto/rand does not fail
		panic(fault.Bug("no randomness: %v", err))
	}
	return n
}

// ParseAuthority reads what Marshal wrote.
func ParseAuthority(raw []byte) (*Authority, error) {
	certs, key, err := parseBundle(raw)
	if err == nil && (len(certs) != 1 || key == nil) {
		err = fmt.Errorf("%d certificates, key: %v; want one with its key", len(certs), key != nil)
	}
	if err != nil {
		return nil, fault.Errorf("trust.ParseAuthority", fault.Corrupt, "the cluster's authority is damaged: %w", err)
	}
	a, err := newAuthority(certs[0].Raw, key)
	if err != nil {
		return nil, fault.Errorf("trust.ParseAuthority", fault.Corrupt, "the cluster's authority is damaged: %w", err)
	}
	return a, nil
}

// Marshal returns the authority as PEM, its private key included.
func (a *Authority) Marshal() []byte { return marshalBundle(a.key, a.cert.Raw) }

// Cluster returns whose authority it is.
func (a *Authority) Cluster() block.ClusterID { return a.cluster }

// Certificate returns the authority's own certificate, DER.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// Hash returns the authority's name in join tokens.
func (a *Authority) Hash() string { return hashOf(a.cert.Raw) }

func hashOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Request is what a certificate is to say.
type Request struct {
	Node block.NodeID
	// PublicKey is the node's; see CheckCSR.
	PublicKey crypto.PublicKey
	// Addresses are names and IP addresses at which people's tools find the node.
	Addresses []string
}

// Issue certifies a node, from now on, and returns the certificate, DER.
func (a *Authority) Issue(r Request, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: r.Node.String()},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certificateTTL),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:         []*url.URL{link.NodeName(a.cluster, r.Node)},
		DNSNames:     []string{ServerName},
	}
	for _, address := range r.Addresses {
		if ip := net.ParseIP(address); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if address != "" && address != ServerName {
			template.DNSNames = append(template.DNSNames, address)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, r.PublicKey, a.key)
	if err != nil {
		return nil, fault.E("trust.Issue", fault.Invalid, block.VolumeID{}, err)
	}
	return der, nil
}

// CheckCSR reads a certificate signing request, DER, and returns the public key whose
// owner made it. What else it says does not count.
func CheckCSR(der []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.Errorf("trust.CheckCSR", fault.Invalid, "the certificate request can't be used: %w", err)
	}
	return csr.PublicKey, nil
}

// marshalBundle returns a key and certificates as PEM.
func marshalBundle(key crypto.Signer, certs ...[]byte) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil { // only for kinds of keys that are not made here
		panic(fault.Bug("marshal a key: %v", err))
	}
	out := pem.EncodeToMemory(&pem.Block{Type: privateKeyBlock, Bytes: der})
	return append(out, marshalCertificates(certs...)...)
}

func marshalCertificates(certs ...[]byte) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c})...)
	}
	return out
}

// parseBundle reads PEM with certificates, and a key or none.
func parseBundle(raw []byte) (certs []*x509.Certificate, key crypto.Signer, err error) {
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			return certs, key, nil
		}
		switch b.Type {
		case certificateBlock:
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, c)
		case privateKeyBlock:
			if key, err = parseKey(b.Bytes); err != nil {
				return nil, nil, err
			}
		default:
			return nil, nil, fmt.Errorf("a PEM block of type %q", b.Type)
		}
	}
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T can't sign", key)
	}
	return signer, nil
}
