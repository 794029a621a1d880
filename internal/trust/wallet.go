package trust

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// The files of a wallet, PEM.
const (
	nodeFile        = "node.pem" // the private key, then the certificate and what leads to the authority
	authoritiesFile = "ca.pem"
	removedFile     = "removed" // ids of nodes that were taken out of the cluster, a line each
)

// Wallet is the directory in which a node keeps what proves who it is. Several processes
// may have it open: a certificate that one of them renews is used by all. Its methods are
// for any goroutine.
type Wallet struct {
	dir string

	mu       sync.Mutex
	identity *Identity
	read     os.FileInfo // of the file that identity is from
	removed  map[string]bool
	listed   os.FileInfo // of the file that removed is from
}

// OpenWallet opens the wallet in dir. fault.NotFound when there is none: the node has not
// joined a cluster.
func OpenWallet(dir string) (*Wallet, error) {
	w := &Wallet{dir: dir}
	if _, err := w.load(); err != nil {
		return nil, err
	}
	return w, nil
}

// Fill makes a wallet in dir, or puts a new certificate into the one that is there: a
// node's key, its certificate, and the certificates of the authorities, DER.
func Fill(dir string, key crypto.Signer, cert []byte, authorities [][]byte) error {
	const op = "trust.Fill"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(op, err)
	}
	if err := replaceFile(filepath.Join(dir, authoritiesFile), marshalCertificates(authorities...)); err != nil {
		return fault.Wrap(op, err)
	}
	chain := append([][]byte{cert}, authorities...)
	return fault.Wrap(op, replaceFile(filepath.Join(dir, nodeFile), marshalBundle(key, chain...)))
}

// NodeFile is the path of the file with the key and the certificate.
func (w *Wallet) NodeFile() string { return filepath.Join(w.dir, nodeFile) }

// AuthoritiesFile is the path of the file with whom to believe.
func (w *Wallet) AuthoritiesFile() string { return filepath.Join(w.dir, authoritiesFile) }

// Identity returns what the wallet holds now. When the files can't be read it is what
// they held last.
func (w *Wallet) Identity() *Identity {
	if id, err := w.load(); err == nil {
		return id
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.identity
}

func (w *Wallet) load() (*Identity, error) {
	const op = "trust.Wallet"
	w.mu.Lock()
	defer w.mu.Unlock()
	info, err := os.Stat(w.NodeFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(op, fault.NotFound, "%s has no certificate of a node", w.dir)
	}
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	if w.identity != nil && os.SameFile(info, w.read) && info.ModTime().Equal(w.read.ModTime()) {
		return w.identity, nil
	}
	id, err := w.parse()
	if err != nil {
		return nil, err
	}
	w.identity, w.read = id, info
	return id, nil
}

func (w *Wallet) parse() (*Identity, error) {
	const op = "trust.Wallet"
	raw, err := os.ReadFile(w.NodeFile())
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	certs, key, err := parseBundle(raw)
	if err != nil {
		return nil, fault.Errorf(op, fault.Corrupt, "%s: %w", w.NodeFile(), err)
	}
	if raw, err = os.ReadFile(w.AuthoritiesFile()); err != nil {
		return nil, fault.Wrap(op, err)
	}
	authorities, _, err := parseBundle(raw)
	if err != nil {
		return nil, fault.Errorf(op, fault.Corrupt, "%s: %w", w.AuthoritiesFile(), err)
	}
	id, err := newIdentity(certs, key, authorities)
	if err != nil {
		return nil, fault.WithCure(fault.Errorf(op, fault.Corrupt, "%s: %w", w.NodeFile(), err),
			"let the node join again: holdfast node --join ADDRESS --token TOKEN")
	}
	return id, nil
}

// Server is Identity.Server with what the wallet holds when a client connects.
func (w *Wallet) Server(others bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := w.Identity().Server(others)
			c.VerifyConnection = w.admit
			return c, nil
		},
	}
}

// Client is Identity.Client with what the wallet holds when it connects; the authorities
// are those of now.
func (w *Wallet) Client() *tls.Config {
	c := w.Identity().Client()
	c.Certificates = nil
	isPeer := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error { return errors.Join(isPeer(s), w.admit(s)) }
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &w.Identity().Certificate, nil
	}
	return c
}

// Expel writes down which nodes were taken out of the cluster, by id. Their certificates
// may be good for weeks; from now on they let them in nowhere.
func (w *Wallet) Expel(nodes []string) error {
	const op = "trust.Expel"
	text := strings.Join(slices.Sorted(slices.Values(nodes)), "\n")
	path := filepath.Join(w.dir, removedFile)
	if was, err := os.ReadFile(path); err == nil && string(was) == text || errors.Is(err, os.ErrNotExist) && text == "" {
		return nil
	}
	return fault.Wrap(op, replaceFile(path, []byte(text)))
}

// Removed reports whether a node was taken out of the cluster. When the file can't be
// read it is what it said last.
func (w *Wallet) Removed(node block.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	path := filepath.Join(w.dir, removedFile)
	info, err := os.Stat(path)
	if err == nil && (w.listed == nil || !os.SameFile(info, w.listed) || !info.ModTime().Equal(w.listed.ModTime())) {
		if raw, err := os.ReadFile(path); err == nil {
			w.removed, w.listed = map[string]bool{}, info
			for _, id := range strings.Fields(string(raw)) {
				w.removed[id] = true
			}
		}
	}
	return w.removed[node.String()]
}

// Refuse says why a certificate of the cluster lets nobody in any more, or nil. It must be
// verified.
func (w *Wallet) Refuse(cert *x509.Certificate) error {
	_, node, err := nodeIn(cert)
	if err != nil || !w.Removed(node) {
		return nil // who is no node proves himself otherwise
	}
	return fault.WithCure(fault.Errorf("trust", fault.Denied, "node %s was removed from the cluster", node),
		"on its machine, put trust and etcd in its data directory aside, and start it with --join and a new token (holdfast token create)")
}

// admit is for tls.Config.VerifyConnection.
func (w *Wallet) admit(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	return w.Refuse(s.PeerCertificates[0])
}

// replaceFile durably puts raw in the place of a file that only its owner may read.
func replaceFile(path string, raw []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
