package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// keyIDHeader names, in PEM, the key that a token is signed with.
const keyIDHeader = "Key-Id"

// Keyring signs the tokens with which people and programs call the API (JWT, EdDSA). It
// does not change.
type Keyring struct {
	keys []signingKey // the first one signs, all are believed
}

type signingKey struct {
	id  string
	key ed25519.PrivateKey
}

// Claims are what a token says.
type Claims struct {
	ID      string // of the token, so that it can be revoked
	Subject string // who holds it
	Role    string // admin, user or viewer
	Cluster block.ClusterID
	Issued  time.Time
	Expires time.Time // zero: never
}

// NewKeyring makes a keyring with a key, and with the keys of old, whose tokens go on
// being believed; old may be nil.
func NewKeyring(old *Keyring) (*Keyring, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fault.E("trust.NewKeyring", fault.Internal, block.VolumeID{}, err)
	}
	k := &Keyring{keys: []signingKey{{id: rand.Text()[:8], key: key}}}
	if old != nil {
		k.keys = append(k.keys, old.keys...)
	}
	return k, nil
}

// Marshal returns the keyring as PEM, private keys included.
func (k *Keyring) Marshal() (out []byte) {
	for _, s := range k.keys {
		der, err := x509.MarshalPKCS8PrivateKey(s.key)
		if err != nil { // not for this kind of key
			panic(fault.Bug("marshal a key: %v", err))
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: privateKeyBlock, Headers: map[string]string{keyIDHeader: s.id}, Bytes: der})...)
	}
	return out
}

// ParseKeyring reads what Marshal wrote.
func ParseKeyring(raw []byte) (*Keyring, error) {
	damaged := func(format string, args ...any) (*Keyring, error) {
		return nil, fault.Errorf("trust.ParseKeyring", fault.Corrupt, "the cluster's keyring is damaged: "+format, args...)
	}
	k := &Keyring{}
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		key, err := parseKey(b.Bytes)
		if err != nil {
			return damaged("%w", err)
		}
		private, ok := key.(ed25519.PrivateKey)
		if !ok || b.Headers[keyIDHeader] == "" {
			return damaged("a key of type %T with the name %q", key, b.Headers[keyIDHeader])
		}
		k.keys = append(k.keys, signingKey{id: b.Headers[keyIDHeader], key: private})
	}
	if len(k.keys) == 0 {
		return damaged("it has no key")
	}
	return k, nil
}

// claims are Claims as a JWT has them.
type claims struct {
	jwt.RegisteredClaims
	Role string `json:"role"`
}

// Sign returns a token that says c.
func (k *Keyring) Sign(c Claims) (string, error) {
	out := claims{Role: c.Role, RegisteredClaims: jwt.RegisteredClaims{ID: c.ID, Subject: c.Subject,
		Issuer: c.Cluster.String(), IssuedAt: jwt.NewNumericDate(c.Issued)}}
	if !c.Expires.IsZero() {
		out.ExpiresAt = jwt.NewNumericDate(c.Expires)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, out)
	t.Header["kid"] = k.keys[0].id
	text, err := t.SignedString(k.keys[0].key)
	if err != nil {
		return "", fault.E("trust.Sign", fault.Internal, block.VolumeID{}, err)
	}
	return text, nil
}

// Verify returns what a token says, if a key of the ring has signed it and it has not
// expired; else fault.Denied. Whether it was revoked is the caller's to know.
func (k *Keyring) Verify(text string, now time.Time) (Claims, error) {
	var c claims
	_, err := jwt.ParseWithClaims(text, &c, k.find, jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Claims{}, fault.Errorf("trust.Verify", fault.Denied, "the token can't be used: %w", err)
	}
	out := Claims{ID: c.ID, Subject: c.Subject, Role: c.Role}
	if out.Cluster, err = block.ParseClusterID(c.Issuer); err != nil {
		return Claims{}, fault.Errorf("trust.Verify", fault.Denied, "the token names no cluster: %w", err)
	}
	if c.IssuedAt != nil {
		out.Issued = c.IssuedAt.Time
	}
	if c.ExpiresAt != nil {
		out.Expires = c.ExpiresAt.Time
	}
	return out, nil
}

// find returns the public key that a token names.
func (k *Keyring) find(t *jwt.Token) (any, error) {
	for _, s := range k.keys {
		if t.Header["kid"] == s.id {
			return s.key.Public(), nil
		}
	}
	return nil, fmt.Errorf("it is signed with a key that this cluster does not have")
}
