package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// joinPrefix begins every join token: the version of its form.
const joinPrefix = "hf1"

// JoinToken lets a machine become a node: hf1.<id>.<secret>.<hash of the authority>. The
// hash tells the machine whom it may hand the secret to.
type JoinToken struct {
	ID        string
	Secret    string
	Authority string // Authority.Hash
}

// NewJoinToken makes a token for the cluster of an authority.
func NewJoinToken(a *Authority) JoinToken {
	return JoinToken{ID: strings.ToLower(rand.Text()[:10]), Secret: rand.Text(), Authority: a.Hash()}
}

// String returns the whole token, its secret included.
func (t JoinToken) String() string {
	return strings.Join([]string{joinPrefix, t.ID, t.Secret, t.Authority}, ".")
}

// ParseJoinToken reads what String returned.
func ParseJoinToken(text string) (JoinToken, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != joinPrefix || parts[1] == "" || parts[2] == "" || len(parts[3]) != 2*sha256.Size {
		return JoinToken{}, fault.WithCure(fault.Errorf("trust.ParseJoinToken", fault.Invalid, "this is no join token"),
			"copy all of it, or make one on a node of the cluster: holdfast token create")
	}
	return JoinToken{ID: parts[1], Secret: parts[2], Authority: parts[3]}, nil
}

// SecretHash is what the cluster keeps of the secret, which is too random to be guessed
// from it.
func (t JoinToken) SecretHash() []byte {
	sum := sha256.Sum256([]byte(t.Secret))
	return sum[:]
}

// Matches reports whether the token's secret is the one of which hash was kept.
func (t JoinToken) Matches(hash []byte) bool {
	return subtle.ConstantTimeCompare(t.SecretHash(), hash) == 1
}

// Client returns what a machine that has not joined yet needs to connect to a node of the
// token's cluster, and to nobody else.
func (t JoinToken) Client() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         ServerName,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   t.verify,
	}
}

func (t JoinToken) verify(s tls.ConnectionState) error {
	roots := x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates {
		if hashOf(c.Raw) == t.Authority {
			roots.AddCert(c)
			found = true
		}
	}
	err := errors.New("its certificate is of another cluster than the token")
	if found {
		_, err = s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	}
	if err == nil {
		_, _, err = nodeIn(s.PeerCertificates[0])
	}
	if err != nil {
		return fault.WithCure(fault.Errorf("trust.Join", fault.Denied, "the server can't be believed: %w", err),
			"check the address, and that the token is of the cluster that is there")
	}
	return nil
}

// GoString hides the secret from %#v.
func (t JoinToken) GoString() string { return fmt.Sprintf("trust.JoinToken{ID: %q}", t.ID) }
