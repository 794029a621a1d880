package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"os"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// exportTLS returns what exports over TCP prove who they are with, and demand: certificates
// of the cluster's nodes, or what the config names. Files are read when somebody connects,
// because certificates are renewed; and once now: the error says what keeps all clients away
// until it is mended.
func (c *Config) exportTLS(w *trust.Wallet) (*tls.Config, error) {
	_, err := c.exportTLSNow(w)
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.exportTLSNow(w) }}, err
}

func (c *Config) exportTLSNow(w *trust.Wallet) (*tls.Config, error) {
	const op = "daemon.export"
	t := w.Identity().Server(false)
	t.NextProtos = nil // that of NBD has no name
	if c.ExportCA != "" {
		raw, err := os.ReadFile(c.ExportCA)
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(raw) {
			return nil, fault.Errorf(op, fault.Invalid, "%s holds no certificate", c.ExportCA)
		}
	}
	if c.ExportCert != "" {
		pair, err := tls.LoadX509KeyPair(c.ExportCert, c.ExportKey)
		if err != nil {
			return nil, fault.Errorf(op, fault.Invalid, "the certificate of exports: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
