package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// export is one on a Unix socket, of a volume in memory.
type export struct {
	*Frontend
	dir    string
	server *Server
	memory *attachtest.Memory
}

const exportSize = 64 << 20

func newExport(t testing.TB, change func(o *attach.Options)) *export {
	t.Helper()
	e := &export{dir: t.TempDir(), memory: attachtest.NewMemory()}
	e.server = startServer(t, e.dir)
	e.Frontend = e.add(t, "vol", change)
	return e
}

// add exports a volume, the same bytes under another name.
func (e *export) add(t testing.TB, name string, change func(o *attach.Options)) *Frontend {
	t.Helper()
	o := attach.Options{Loop: runLoop(t), Backend: e.memory, Name: name, Size: exportSize}
	if change != nil {
		change(&o)
	}
	f, err := New(o, e.server)
	must(t, err)
	must(t, f.Start(patiently.Context(t)))
	t.Cleanup(func() {
		must(t, f.Abort())
		patiently.From(t, f.Ended())
	})
	return f
}

func runLoop(t testing.TB) *host.Loop {
	t.Helper()
	l, err := host.NewLoop(host.Options{})
	must(t, err)
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(context.Background()) }()
	t.Cleanup(func() {
		l.Stop()
		patiently.From(t, ended)
		l.Close()
	})
	return l
}

func (e *export) uri(name string) string {
	return "nbd+unix:///" + name + "?socket=" + socketOf(e.dir)
}

// tool runs a program, which must succeed, and returns what it said.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = t.TempDir() // some leave files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestNbdinfoSeesWhatThereIs(t *testing.T) {
	e := newExport(t, nil)
	e.add(t, "another", func(o *attach.Options) { o.ReadOnly = true })
	var info struct {
		Protocol   string `json:"protocol"`
		Structured bool   `json:"structured"`
		Exports    []struct {
			Name      string   `json:"export-name"`
			Contexts  []string `json:"contexts"`
			Size      int64    `json:"export-size"`
			ReadOnly  bool     `json:"is_read_only"`
			MultiConn bool     `json:"can_multi_conn"`
			Trim      bool     `json:"can_trim"`
			Zero      bool     `json:"can_zero"`
			FastZero  bool     `json:"can_fast_zero"`
			FUA       bool     `json:"can_fua"`
			DF        bool     `json:"can_df"`
			Minimum   int      `json:"block_size_minimum"`
			Maximum   int      `json:"block_size_maximum"`
		} `json:"exports"`
	}
	must(t, json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", "--list", "nbd+unix:///?socket="+socketOf(e.dir))), &info))
	if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 2 {
		t.Fatalf("nbdinfo says %+v", info)
	}
	another, vol := info.Exports[0], info.Exports[1]
	if vol.Name != "vol" || vol.Size != exportSize || !slices.Equal(vol.Contexts, []string{"base:allocation"}) || vol.ReadOnly || !vol.MultiConn ||
		!vol.Trim || !vol.Zero || !vol.FastZero || !vol.FUA || !vol.DF || vol.Minimum != 4096 || vol.Maximum != 1<<20 {
		t.Errorf("nbdinfo says %+v", vol)
	}
	if another.Name != "another" || !another.ReadOnly || another.Trim || another.Zero {
		t.Errorf("nbdinfo says %+v", another)
	}
}

// What is sparse is seen as such, and a copy of it takes no more space.
func TestNbdcopyCopiesDataAndLeavesHoles(t *testing.T) {
	e := newExport(t, nil)
	c := connect(t, dialer(e.dir), "vol", true)
	data := host.Buffer(3 << 20)
	_, _ = rand.Read(data) // never fails
	must(t, c.Write(data, 8<<20))
	must(t, c.Write(data[:4096], exportSize-4096))

	said := tool(t, "nbdinfo", "--map", "--json", e.uri("vol"))
	var extents []struct {
		Offset, Length int64
		Type           int
	}
	must(t, json.Unmarshal([]byte(said), &extents))
	if len(extents) != 4 || extents[0].Type != 3 || extents[1].Offset != 8<<20 || extents[1].Length != 3<<20 || extents[1].Type != 0 {
		t.Errorf("nbdinfo --map says %s", said)
	}

	file := filepath.Join(t.TempDir(), "copy")
	tool(t, "nbdcopy", e.uri("vol"), file)
	got, err := os.ReadFile(file)
	must(t, err)
	if len(got) != exportSize || !bytes.Equal(got, e.memory.Bytes(0, exportSize)) {
		t.Error("the copy differs")
	}
	e.add(t, "copy", func(o *attach.Options) { o.Backend = attachtest.NewMemory() })
	tool(t, "nbdcopy", "--connections=4", e.uri("vol"), e.uri("copy"))
	tool(t, "nbdcopy", e.uri("copy"), file)
	if got, err = os.ReadFile(file); err != nil || !bytes.Equal(got, e.memory.Bytes(0, exportSize)) {
		t.Error("the copy between exports differs")
	}
}

func TestQemuWorksAnExport(t *testing.T) {
	e := newExport(t, func(o *attach.Options) { o.BlockSize = 512 })
	io := func(commands ...string) {
		t.Helper()
		var args []string
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		said := tool(t, "qemu-io", append(append([]string{"-f", "raw"}, args...), e.uri("vol"))...)
		if strings.Contains(said, "fail") || strings.Contains(said, "error") {
			t.Errorf("qemu-io says %s", said)
		}
	}
	io("write -P 0xab 0 9M", "write -f -P 0xcd 1M 64k", "flush", "read -P 0xab 0 1M", "read -P 0xcd 1M 64k")
	io("write -z -u 2M 1M", "discard 4M 1M", "write -P 7 512 512")
	io("read -P 0 2M 1M", "read -P 0 4M 1M", "read -P 0xab 3M 1M", "read -P 7 512 512", "read -P 0xab 0 512", "read -P 0xab 1024 512")

	image := filepath.Join(t.TempDir(), "image.qcow2")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", e.uri("vol"), image)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", e.uri("vol"), image)
	e.add(t, "back", func(o *attach.Options) { o.Backend = attachtest.NewMemory() })
	tool(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", image, e.uri("back"))
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", e.uri("vol"), e.uri("back"))
	said := tool(t, "qemu-img", "map", "--output=json", "-f", "raw", e.uri("vol"))
	var extents []struct {
		Start int64
		Data  bool
	}
	must(t, json.Unmarshal([]byte(said), &extents))
	if len(extents) < 4 || extents[0].Data != true || extents[len(extents)-1].Data {
		t.Errorf("qemu-img map says %s", said)
	}
	tool(t, "qemu-img", "bench", "-c", "2000", "-d", "16", "-w", "--flush-interval=100", "-f", "raw", e.uri("vol"))
}

func TestFioVerifiesOverSeveralConnections(t *testing.T) {
	e := newExport(t, nil)
	tool(t, "fio", "--ioengine=nbd", "--uri="+e.uri("vol"), "--name=verify", "--rw=randwrite", "--bsrange=4k-128k", "--blockalign=4k",
		"--iodepth=16", "--size=16M", "--verify=crc32c", "--verify_fatal=1", "--numjobs=3", "--offset_increment=16M", "--fsync=64")
	if s := e.Stats(); s.Malformed != 0 || s.Write.Errors != 0 || s.InFlight != 0 || s.Flush.Latency.Count() == 0 {
		t.Errorf("%d malformed, %d errors, %d in flight", s.Malformed, s.Write.Errors, s.InFlight)
	}
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(raw)
	must(t, err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	return a
}

// sign returns a certificate and its key, as PEM.
func (a *authority) sign(serial int64, usage x509.ExtKeyUsage) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	must(a.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Over TCP everything waits for TLS, and TLS for a certificate of the client.
func TestNothingIsSaidBeforeTLS(t *testing.T) {
	e := newExport(t, nil)
	a := newAuthority(t)
	cert, key := a.sign(2, x509.ExtKeyUsageServerAuth)
	pair, err := tls.X509KeyPair(cert, key)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() {
		_ = e.server.Serve(l, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	}()
	dial := func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	if c, err := dialExport(dial, "vol", false); err == nil {
		c.Close()
		t.Error("an export was opened without TLS")
	}

	dir := t.TempDir()
	cert, key = a.sign(3, x509.ExtKeyUsageClientAuth)
	for name, text := range map[string][]byte{"ca-cert.pem": a.pem, "client-cert.pem": cert, "client-key.pem": key} {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	uri := fmt.Sprintf("nbds://localhost:%d/vol?tls-certificates=%s", l.Addr().(*net.TCPAddr).Port, dir)
	if said := strings.TrimSpace(tool(t, "nbdinfo", "--size", uri)); said != fmt.Sprint(exportSize) {
		t.Errorf("nbdinfo says %s", said)
	}
	data := host.Buffer(5 << 20)
	_, _ = rand.Read(data) // never fails
	must(t, connect(t, dialer(e.dir), "vol", true).Write(data, 1<<20))
	file := filepath.Join(dir, "copy")
	tool(t, "nbdcopy", uri, file)
	got, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(got[1<<20:6<<20], data) {
		t.Error("the copy under TLS differs")
	}

	stranger := newAuthority(t)
	cert, key = stranger.sign(4, x509.ExtKeyUsageClientAuth)
	pair, err = tls.X509KeyPair(cert, key)
	must(t, err)
	conn, err := dial()
	must(t, err)
	defer conn.Close()
	k := &talker{conn: conn, r: newReader(conn)}
	must(t, k.greet())
	err = k.secure(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}})
	if err == nil {
		_, err = k.choose(optGo, "vol")
	}
	if err == nil {
		t.Error("a stranger opened an export")
	}
}
