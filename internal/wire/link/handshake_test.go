package link_test

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

func TestBothEndsKnowEachOther(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.String(), func(t *testing.T) {
			a, b := connect(t, tr, func(dial, accept *link.Options) {
				dial.Self.Lowest, dial.Self.Highest, dial.Self.Boot = 1, 7, 11
				accept.Self.Features = 3
			})
			if p := b.Peer(); p.Node != node(1) || p.Name != "node-1" || p.Cluster != cluster(1) || p.Highest != 7 || p.Boot != 11 || p.Incarnation != 1 {
				t.Errorf("who accepted knows %+v", p)
			}
			if p := a.Peer(); p.Node != node(2) || p.Features != 3 || p.Lowest != wire.Lowest || p.Highest != wire.Highest {
				t.Errorf("who dialed knows %+v", p)
			}
			if a.Version() != wire.Highest || b.Version() != wire.Highest {
				t.Errorf("versions %d and %d", a.Version(), b.Version())
			}
			if a.Err() != nil || b.Err() != nil {
				t.Errorf("errors %v and %v", a.Err(), b.Err())
			}
		})
	}
}

// refused expects that neither end gets a connection, for reasons of the kinds given.
func refused(t *testing.T, dialed, got accepted, dialKind, acceptKind fault.Kind) {
	t.Helper()
	for _, x := range []struct {
		end  string
		got  accepted
		want fault.Kind
	}{{"who dialed", dialed, dialKind}, {"who accepted", got, acceptKind}} {
		if x.got.conn != nil {
			t.Errorf("%s has a connection", x.end)
		}
		if !fault.Is(x.got.err, x.want) {
			t.Errorf("%s: %v (%s), want %s", x.end, x.got.err, fault.KindOf(x.got.err), x.want)
		}
	}
}

func TestNodeOfAnotherAuthorityIsRefused(t *testing.T) {
	other := newAuthority(cluster(1)) // the same names, another key
	fake, err := other.Issue(node(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "unix"} {
		a, b := options(t, 1, true), options(t, 2, true)
		a.Credentials = fake
		fake.Authority = b.Credentials.Authority // it would believe us
		dialed, got := shake(t, network, a, b, node(2))
		refused(t, dialed, got, fault.Denied, fault.Denied)

		a, b = options(t, 1, true), options(t, 2, true)
		if b.Credentials, err = other.Issue(node(2)); err != nil {
			t.Fatal(err)
		}
		dialed, got = shake(t, network, a, b, node(2))
		refused(t, dialed, got, fault.Denied, fault.Denied)
	}
}

func TestNodeThatWasRemovedIsRefused(t *testing.T) {
	for _, end := range []string{"who dials", "who accepts"} {
		a, b := options(t, 1, true), options(t, 2, true)
		credentials, gone := b.Credentials, node(1)
		if end == "who accepts" {
			credentials, gone = a.Credentials, node(2)
		}
		credentials.Removed = func(n block.NodeID) bool { return n == gone }
		dialed, got := shake(t, "tcp", a, b, node(2))
		refused(t, dialed, got, fault.Denied, fault.Denied)
	}
}

func TestCertificatesThatAreNotForANodeAreRefused(t *testing.T) {
	name := link.NodeName(cluster(1), node(1))
	with := func(change func(u *url.URL)) []*url.URL { u := *name; change(&u); return []*url.URL{&u} }
	for what, template := range map[string]*x509.Certificate{
		"no name":            {},
		"two names":          {URIs: []*url.URL{name, link.NodeName(cluster(1), node(2))}},
		"another scheme":     {URIs: with(func(u *url.URL) { u.Scheme = "https" })},
		"another cluster":    {URIs: []*url.URL{link.NodeName(cluster(2), node(1))}},
		"no cluster":         {URIs: with(func(u *url.URL) { u.Host = "example.org" })},
		"another path":       {URIs: with(func(u *url.URL) { u.Path = "/user/" + node(1).String() })},
		"no node":            {URIs: with(func(u *url.URL) { u.Path = "/node/me" })},
		"more than a node":   {URIs: with(func(u *url.URL) { u.Path += "/x" })},
		"a query":            {URIs: with(func(u *url.URL) { u.RawQuery = "a=b" })},
		"another node":       {URIs: []*url.URL{link.NodeName(cluster(1), node(3))}},
		"expired":            {URIs: []*url.URL{name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)},
		"not yet valid":      {URIs: []*url.URL{name}, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)},
		"for servers only":   {URIs: []*url.URL{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		"for something else": {URIs: []*url.URL{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}},
	} {
		t.Run(what, func(t *testing.T) {
			a, b := options(t, 1, true), options(t, 2, true)
			var err error
			if a.Credentials, err = authority().IssueFor(template); err != nil {
				t.Fatal(err)
			}
			dialed, got := shake(t, "tcp", a, b, node(2))
			refused(t, dialed, got, fault.Denied, fault.Denied)
			if what == "for servers only" {
				return // as it should
			}
			// The same certificate at the other end.
			a, b = b, a
			a.Self, b.Self = b.Self, a.Self
			a.Self.Node, b.Self.Node = node(2), node(1)
			a.LingerMax = time.Millisecond // where only we know, nobody listens
			dialed, got = shake(t, "tcp", a, b, node(1))
			if what == "another node" {
				got = dialed // who accepted said so in the last step, and learns the outcome later
			}
			refused(t, dialed, got, fault.Denied, fault.Denied)
		})
	}
}

func TestAnotherNodeAnswers(t *testing.T) {
	for _, tr := range transports {
		a, b := options(t, 1, tr.secure), options(t, 2, tr.secure)
		a.LingerMax = time.Millisecond // the other end does not listen before we have gone
		dialed, got := shake(t, tr.network, a, b, node(3))
		if dialed.conn != nil || !fault.Is(dialed.err, fault.Denied) || !strings.Contains(dialed.err.Error(), node(2).String()) {
			t.Errorf("%v: dialing node 3, node 2 answers: %v", tr, dialed.err)
		}
		// Who accepted learns it when it listens.
		if got.err != nil {
			t.Fatal(got.err)
		}
		r := run(t, got.conn, func(f *link.Frame) { f.Release() })
		if err := patiently.From(t, r.received); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "refused by the peer") {
			t.Errorf("%v: who accepted: %v", tr, err)
		}
	}
}

func TestNodeOfAnotherClusterIsRefused(t *testing.T) {
	a, b := options(t, 1, false), options(t, 2, false)
	a.Self.Cluster = cluster(2)
	dialed, got := shake(t, "tcp", a, b, node(2))
	refused(t, dialed, got, fault.Denied, fault.Denied)

	// The clusters share an authority, which they should not.
	a, b = options(t, 1, true), options(t, 2, true)
	var err error
	if a.Credentials, err = authority().IssueFor(&x509.Certificate{URIs: []*url.URL{link.NodeName(cluster(2), node(1))}}); err != nil {
		t.Fatal(err)
	}
	a.Self.Cluster = cluster(2)
	dialed, got = shake(t, "tcp", a, b, node(2))
	refused(t, dialed, got, fault.Denied, fault.Denied)
}

func TestPeerOfAnotherVersionIsRefusedBothWays(t *testing.T) {
	for _, tr := range transports {
		for _, newer := range []byte{1, 2} {
			a, b := options(t, 1, tr.secure), options(t, 2, tr.secure)
			for _, o := range []*link.Options{&a, &b} {
				if o.Self.Node == node(newer) {
					o.Self.Lowest, o.Self.Highest = wire.Highest+1, wire.Highest+2
				}
			}
			dialed, got := shake(t, tr.network, a, b, node(2))
			refused(t, dialed, got, fault.Unsupported, fault.Unsupported)
			for _, err := range []error{dialed.err, got.err} {
				if want := "upgrade holdfast on node " + node(3-newer).String(); !strings.Contains(err.Error(), want) {
					t.Errorf("%v: %v: does not say %q", tr, err, want)
				}
			}
		}
	}
}

func TestOneEndWithoutTLS(t *testing.T) {
	dialed, got := shake(t, "tcp", options(t, 1, false), options(t, 2, true), node(2))
	refused(t, dialed, got, fault.Unavailable, fault.Invalid) // package tls hangs up on it
	if !strings.Contains(dialed.err.Error(), "both ends use TLS") {
		t.Errorf("%v: does not say what may be wrong", dialed.err)
	}
	dialed, got = shake(t, "tcp", options(t, 1, true), options(t, 2, false), node(2))
	refused(t, dialed, got, fault.Invalid, fault.Invalid)
}

func TestGarbageInsteadOfHello(t *testing.T) {
	hello := options(t, 1, false).Self
	hello.Lowest, hello.Highest = 1, 1
	good, err := wire.Append(nil, wire.Tag{}, &hello)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte(nil), good...)
	bad[len(bad)-1] ^= 1
	ping, err := wire.Append(nil, wire.Tag{}, &wire.Ping{})
	if err != nil {
		t.Fatal(err)
	}
	long := append([]byte(nil), good...)
	long[4], long[5] = 0xff, 0xff
	for _, c := range []struct {
		what string
		sent []byte
		want fault.Kind
	}{
		{"a web browser", []byte("GET / HTTP/1.1\r\nHost: 10.0.0.1:7000\r\nAccept: */*\r\n\r\n"), fault.Invalid},
		{"zeros", make([]byte, 100), fault.Invalid},
		{"a Ping", ping, fault.Invalid},
		{"a wrong checksum", bad, fault.Corrupt},
		{"a Hello of 64 KiB", long, fault.Invalid},
		{"nothing", nil, fault.Unavailable},
		{"half a header", good[:10], fault.Unavailable},
		{"half a Hello", good[:len(good)-1], fault.Unavailable},
	} {
		l := listen(t, "tcp")
		accepted := acceptOne(l, options(t, 2, false))
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(c.sent); err != nil {
			t.Fatal(err)
		}
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := patiently.From(t, accepted); !fault.Is(got.err, c.want) {
			t.Errorf("%s: %v (%s), want %s", c.what, got.err, fault.KindOf(got.err), c.want)
		}
		_ = nc.Close()
	}
}

func TestNobodyAnswers(t *testing.T) {
	l := listen(t, "tcp") // it listens, but nobody accepts
	target := link.Target{Network: "tcp", Address: l.Addr().String(), Node: node(2)}
	for _, secure := range []bool{false, true} {
		o := options(t, 1, secure)
		o.HandshakeMax = time.Millisecond
		if _, err := link.Dial(context.Background(), target, o); !fault.Is(err, fault.Timeout) {
			t.Errorf("nobody shakes hands, TLS %v: %v", secure, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := link.Dial(ctx, target, options(t, 1, secure)); !fault.Is(err, fault.Canceled) {
			t.Errorf("the caller gave up, TLS %v: %v", secure, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := link.Dial(context.Background(), target, options(t, 1, false)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestWhoNeverSaysHelloIsDropped(t *testing.T) {
	for _, secure := range []bool{false, true} {
		o := options(t, 2, secure)
		o.HandshakeMax = time.Millisecond
		l := listen(t, "tcp")
		accepted := acceptOne(l, o)
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := patiently.From(t, accepted); !fault.Is(got.err, fault.Timeout) {
			t.Errorf("TLS %v: %v", secure, got.err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("TLS %v: the socket did not end: %v", secure, err)
		}
		_ = nc.Close()
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	for what, change := range map[string]func(*link.Options){
		"no pool":                   func(o *link.Options) { o.Pool = nil },
		"neither TLS nor clear":     func(o *link.Options) { o.Clear = false },
		"no incarnation":            func(o *link.Options) { o.Self.Incarnation = 0 },
		"a name too long":           func(o *link.Options) { o.Self.Name = strings.Repeat("n", wire.NameMax+1) },
		"both TLS and in the clear": func(o *link.Options) { o.Credentials = &link.Credentials{} },
	} {
		o := options(t, 1, false)
		change(&o)
		if _, err := link.Dial(context.Background(), link.Target{Network: "tcp", Address: "127.0.0.1:1"}, o); !fault.Is(err, fault.Invalid) {
			t.Errorf("dialing with %s: %v", what, err)
		}
		near, far := net.Pipe()
		if _, err := link.Accept(context.Background(), near, o); !fault.Is(err, fault.Invalid) {
			t.Errorf("accepting with %s: %v", what, err)
		}
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the socket was left open", what)
		}
	}
}

func TestNodeNames(t *testing.T) {
	want := "spiffe://" + cluster(1).String() + "/node/" + node(2).String()
	if got := link.NodeName(cluster(1), node(2)).String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if link.NodeName(block.ClusterID{}, block.NodeID{}).Scheme != "spiffe" {
		t.Error("no scheme")
	}
}
