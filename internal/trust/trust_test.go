package trust_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/trust"
)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newAuthority(t testing.TB) *trust.Authority {
	cluster := must(block.NewClusterID(rand.Reader))(t)
	return must(trust.NewAuthority(cluster, time.Now().AddDate(-2, 0, 0)))(t)
}

// newWallet makes a node of the authority's cluster, with a certificate that begins at from.
func newWallet(t testing.TB, a *trust.Authority, from time.Time) (*trust.Wallet, block.NodeID) {
	node := must(block.NewNodeID(rand.Reader))(t)
	key := must(trust.NewKey())(t)
	public := must(trust.CheckCSR(must(trust.NewCSR(key))(t)))(t)
	cert := must(a.Issue(trust.Request{Node: node, PublicKey: public, Addresses: []string{"127.0.0.1", "n1.example"}}, from))(t)
	dir := filepath.Join(t.TempDir(), "trust")
	if err := trust.Fill(dir, key, cert, [][]byte{a.Certificate()}); err != nil {
		t.Fatal(err)
	}
	return must(trust.OpenWallet(dir))(t), node
}

// shake has a client and a server shake hands, and returns what each knows.
func shake(t testing.TB, client, server *tls.Config) (c, s tls.ConnectionState, cerr, serr error) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	ends := make(chan error, 1)
	right := tls.Server(far, server)
	go func() {
		err := right.HandshakeContext(t.Context())
		if err == nil {
			_, err = right.Write([]byte("x")) // a client's certificate is refused after its handshake
		} else {
			far.Close()
		}
		ends <- err
	}()
	left := tls.Client(near, client)
	if cerr = left.HandshakeContext(t.Context()); cerr == nil {
		_, cerr = left.Read(make([]byte, 1))
	} else {
		near.Close()
	}
	serr = patiently.From(t, ends)
	return left.ConnectionState(), right.ConnectionState(), cerr, serr
}

func TestNodesOfAClusterKnowEachOther(t *testing.T) {
	a := must(trust.ParseAuthority(newAuthority(t).Marshal()))(t)
	one, oneID := newWallet(t, a, time.Now())
	two, twoID := newWallet(t, a, time.Now())
	c, s, cerr, serr := shake(t, one.Client(), two.Server(false))
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	if peer, err := one.Identity().Peer(c); err != nil || peer != twoID {
		t.Errorf("the client sees %v, %v", peer, err)
	}
	if peer, err := two.Identity().Peer(s); err != nil || peer != oneID {
		t.Errorf("the server sees %v, %v", peer, err)
	}
	if id := one.Identity(); id.Cluster != a.Cluster() || id.Credentials().Authority == nil {
		t.Errorf("cluster %v, want %v", id.Cluster, a.Cluster())
	}
}

func TestANodeOfAnotherClusterIsRefused(t *testing.T) {
	one, _ := newWallet(t, newAuthority(t), time.Now())
	two, _ := newWallet(t, newAuthority(t), time.Now())
	if _, _, cerr, _ := shake(t, one.Client(), two.Server(false)); cerr == nil {
		t.Error("the client believes a foreign server")
	}
	blind := one.Client()
	blind.InsecureSkipVerify, blind.VerifyConnection = true, nil
	if _, _, _, serr := shake(t, blind, two.Server(true)); serr == nil {
		t.Error("the server believes a foreign client")
	}
}

func TestClientsWithoutCertificateGetInOnlyWhereOthersMay(t *testing.T) {
	w, _ := newWallet(t, newAuthority(t), time.Now())
	person := &tls.Config{RootCAs: w.Identity().Authorities, ServerName: "127.0.0.1"}
	_, s, cerr, serr := shake(t, person, w.Server(true))
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	if _, err := w.Identity().Peer(s); !fault.Is(err, fault.Denied) {
		t.Errorf("Peer of a person: %v", err)
	}
	if _, _, _, serr := shake(t, person, w.Server(false)); serr == nil {
		t.Error("somebody without a certificate got in")
	}
}

func TestAnExpiredCertificateIsRefused(t *testing.T) {
	a := newAuthority(t)
	old, _ := newWallet(t, a, time.Now().AddDate(-1, 0, 0))
	w, _ := newWallet(t, a, time.Now())
	if _, _, _, serr := shake(t, old.Client(), w.Server(false)); serr == nil {
		t.Error("the server believes an expired certificate")
	}
	if id := old.Identity(); !id.Renew().Before(id.Ends()) || id.Ends().After(time.Now()) {
		t.Errorf("to be renewed at %v, ends at %v", id.Renew(), id.Ends())
	}
}

func TestARenewedCertificateIsUsedByAll(t *testing.T) {
	a := newAuthority(t)
	w, node := newWallet(t, a, time.Now())
	server, before := w.Server(false), w.Identity()
	key := must(trust.NewKey())(t)
	cert := must(a.Issue(trust.Request{Node: node, PublicKey: key.Public()}, time.Now().Add(time.Minute)))(t)
	if err := trust.Fill(filepath.Dir(w.NodeFile()), key, cert, [][]byte{a.Certificate()}); err != nil {
		t.Fatal(err)
	}
	if after := w.Identity(); after == before || after.Node != node {
		t.Fatal("the wallet has not noticed")
	}
	other, _ := newWallet(t, a, time.Now())
	c, _, cerr, serr := shake(t, other.Client(), server)
	if cerr != nil || serr != nil || !c.PeerCertificates[0].Equal(w.Identity().Certificate.Leaf) {
		t.Error("the server shows the old certificate", cerr, serr)
	}
	if err := os.WriteFile(w.NodeFile(), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w.Identity().Node != node {
		t.Error("a broken file took away what was known")
	}
	if _, err := trust.OpenWallet(filepath.Dir(w.NodeFile())); err == nil {
		t.Error("a broken wallet was opened")
	}
}

func TestAJoinTokenLeadsToItsClusterAlone(t *testing.T) {
	a := newAuthority(t)
	w, _ := newWallet(t, a, time.Now())
	token := must(trust.ParseJoinToken(trust.NewJoinToken(a).String() + "\n"))(t)
	if _, _, cerr, serr := shake(t, token.Client(), w.Server(true)); cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	foreign, _ := newWallet(t, newAuthority(t), time.Now())
	if _, _, cerr, _ := shake(t, token.Client(), foreign.Server(true)); !fault.Is(cerr, fault.Denied) {
		t.Errorf("a foreign server: %v", cerr)
	}
	if other := trust.NewJoinToken(a); other.Matches(token.SecretHash()) || !token.Matches(token.SecretHash()) {
		t.Error("secrets are compared wrongly")
	}
	for _, bad := range []string{"", "hf1", "hf2.a.b." + a.Hash(), "hf1.a.b.c", "hf1..b." + a.Hash()} {
		if _, err := trust.ParseJoinToken(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestALeafCannotPlayTheAuthority shows a joining machine a chain that contains the
// authority's public certificate, but a leaf that it did not sign.
func TestALeafCannotPlayTheAuthority(t *testing.T) {
	a := newAuthority(t)
	w, _ := newWallet(t, newAuthority(t), time.Now())
	thief := w.Identity().Certificate
	thief.Certificate = append(append([][]byte{}, thief.Certificate...), a.Certificate())
	server := &tls.Config{Certificates: []tls.Certificate{thief}}
	if _, _, cerr, _ := shake(t, trust.NewJoinToken(a).Client(), server); !fault.Is(cerr, fault.Denied) {
		t.Errorf("a thief: %v", cerr)
	}
}

func TestABearerTokenSaysWhatWasSigned(t *testing.T) {
	cluster := must(block.NewClusterID(rand.Reader))(t)
	old := must(trust.NewKeyring(nil))(t)
	now := time.Now().Truncate(time.Second)
	claims := trust.Claims{ID: "t1", Subject: "ada", Role: "admin", Cluster: cluster, Issued: now, Expires: now.Add(time.Hour)}
	text := must(old.Sign(claims))(t)
	ring := must(trust.ParseKeyring(must(trust.NewKeyring(old))(t).Marshal()))(t)
	got := must(ring.Verify(text, now))(t)
	if got.Expires.Equal(claims.Expires) && got.Issued.Equal(claims.Issued) {
		got.Expires, got.Issued = claims.Expires, claims.Issued
	}
	if got != claims {
		t.Errorf("%+v, want %+v", got, claims)
	}
	if _, err := ring.Verify(text, now.Add(2*time.Hour)); !fault.Is(err, fault.Denied) {
		t.Errorf("expired: %v", err)
	}
	other := must(trust.NewKeyring(nil))(t)
	if _, err := other.Verify(text, now); !fault.Is(err, fault.Denied) {
		t.Errorf("another cluster's: %v", err)
	}
	for _, bad := range []string{"", "a.b.c", text[:len(text)-2], // and one that claims to need no signature:
		"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJyb2xlIjoiYWRtaW4ifQ."} {
		if _, err := ring.Verify(bad, now); !fault.Is(err, fault.Denied) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestACertificateHasTheAddressesOfItsNode(t *testing.T) {
	w, node := newWallet(t, newAuthority(t), time.Now())
	leaf := w.Identity().Certificate.Leaf
	for _, name := range []string{"127.0.0.1", "n1.example", trust.ServerName} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if leaf.Subject.CommonName != node.String() {
		t.Errorf("common name %q", leaf.Subject.CommonName)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: w.Identity().Authorities, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	if err == nil {
		t.Error("the certificate is good for signing code")
	}
}

func FuzzParse(f *testing.F) {
	a := newAuthority(f)
	ring := must(trust.NewKeyring(nil))(f)
	w, _ := newWallet(f, a, time.Now())
	f.Add(a.Marshal())
	f.Add(ring.Marshal())
	f.Add([]byte(trust.NewJoinToken(a).String()))
	f.Add([]byte(must(ring.Sign(trust.Claims{ID: "x", Role: "user"}))(f)))
	f.Add(must(os.ReadFile(w.NodeFile()))(f))
	f.Add(must(trust.NewCSR(must(trust.NewKey())(f)))(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := trust.ParseAuthority(raw); err == nil {
			must(trust.ParseAuthority(b.Marshal()))(t)
		}
		if k, err := trust.ParseKeyring(raw); err == nil {
			must(trust.ParseKeyring(k.Marshal()))(t)
		}
		if token, err := trust.ParseJoinToken(string(raw)); err == nil {
			must(trust.ParseJoinToken(token.String()))(t)
		}
		if _, err := trust.CheckCSR(raw); err != nil && !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
		if _, err := ring.Verify(string(raw), time.Now()); err != nil && !fault.Is(err, fault.Denied) {
			t.Error(err)
		}
	})
}

func TestANodeThatWasRemovedIsLetInNowhere(t *testing.T) {
	a := newAuthority(t)
	w, _ := newWallet(t, a, time.Now())
	gone, id := newWallet(t, a, time.Now())
	other := must(trust.OpenWallet(filepath.Dir(w.NodeFile())))(t) // of another process of the node
	for _, removed := range []bool{false, true, false} {
		var list []string
		if removed {
			list = []string{id.String()}
		}
		if err := w.Expel(list); err != nil {
			t.Fatal(err)
		}
		if w.Removed(id) != removed || other.Removed(id) != removed {
			t.Errorf("removed is %v and %v, want %v", w.Removed(id), other.Removed(id), removed)
		}
		if _, _, _, serr := shake(t, gone.Client(), other.Server(true)); (serr != nil) != removed {
			t.Errorf("removed %v: as a client, %v", removed, serr)
		}
		if _, _, cerr, _ := shake(t, other.Client(), gone.Server(false)); (cerr != nil) != removed {
			t.Errorf("removed %v: as a server, %v", removed, cerr)
		}
	}
}
