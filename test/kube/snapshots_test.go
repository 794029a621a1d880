//go:build kube

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// frozenSnapshot takes a snapshot of what a pod has written and not flushed.
func frozenSnapshot(k *kubernetes) {
	k.in("db-0", "dd if=/dev/urandom of=/data/unflushed bs=4096 count=100 2>/dev/null")
	want := k.in("db-0", "md5sum < /data/unflushed")
	k.apply(snapshotOf("frozen", "data-db-0", "holdfast-frozen"))
	k.eventually("the snapshot is ready", is("true"), "get", "volumesnapshot", "frozen", "-o", "jsonpath={.status.readyToUse}")
	k.apply(claimFrom("thawed", "snapshot.storage.k8s.io", "VolumeSnapshot", "frozen"))
	k.apply(podWith("thawed", "thawed"))
	k.running("thawed")
	if got := k.in("thawed", "md5sum < /data/unflushed"); got != want {
		k.t.Errorf("the snapshot has %s, the volume %s", got, want)
	}
	k.ctl("delete", "pod", "thawed")
	k.ctl("delete", "pvc", "thawed")
	k.ctl("delete", "volumesnapshot", "frozen")
	k.writes(k.lines())
}

// twoVolumes writes a number to one volume and then to the other, again and again.
const twoVolumes = `i=0; while true; do i=$((i+1)); for v in a b; do printf '%8d' $i | dd of=/$v/n conv=notrunc,fsync 2>/dev/null; done; done`

// groupSnapshot takes a snapshot of two volumes while a pod writes to one after the other:
// the first is never behind the second, and at most one ahead.
func groupSnapshot(k *kubernetes) {
	k.apply(labelled(claim("pair-a", "holdfast", "320Mi"), "pair") + "---" + labelled(claim("pair-b", "holdfast", "320Mi"), "pair") + "---" + podWithTwo("pair", twoVolumes, "pair-a", "pair-b"))
	k.running("pair")
	k.until("the pod writes", func() bool { return strings.TrimSpace(k.in("pair", "cat /b/n 2>/dev/null || true")) != "" })
	k.apply(`
apiVersion: groupsnapshot.storage.k8s.io/v1beta2
kind: VolumeGroupSnapshot
metadata: {name: pair}
spec: {volumeGroupSnapshotClassName: holdfast, source: {selector: {matchLabels: {group: pair}}}}
`)
	k.eventually("the group is ready", is("true"), "get", "volumegroupsnapshot", "pair", "-o", "jsonpath={.status.readyToUse}")
	k.eventually("it has two members", func(out string) bool { return strings.Count(out, "pair") == 2 },
		"get", "volumesnapshots", "-o", "jsonpath={range .items[*]}{.status.volumeGroupSnapshotName}{\"\\n\"}{end}")
	var restored []string
	for _, source := range []string{"pair-a", "pair-b"} {
		snapshot := k.ctl("get", "volumesnapshots", "-o", `jsonpath={.items[?(@.spec.source.persistentVolumeClaimName=="`+source+`")].metadata.name}`)
		if snapshot == "" { // dynamic members have only a content; the content says of which volume it is
			snapshot = k.memberOf(source)
		}
		k.apply(claimFrom("restored-"+source, "snapshot.storage.k8s.io", "VolumeSnapshot", snapshot))
		restored = append(restored, "restored-"+source)
	}
	k.apply(podWithTwo("restored-pair", "sleep 100000", restored...))
	k.running("restored-pair")
	var a, b int
	if _, err := fmt.Sscan(k.in("restored-pair", "cat /a/n; echo; cat /b/n"), &a, &b); err != nil || a < b || a > b+1 || b == 0 {
		k.t.Errorf("the volumes have %d and %d, %v", a, b, err)
	}
	k.t.Logf("the group has %d and %d", a, b)
	k.ctl("delete", "pod", "pair", "restored-pair", "--force")
	k.ctl("delete", "volumegroupsnapshot", "pair")
	k.ctl("delete", "pvc", "pair-a", "pair-b", "restored-pair-a", "restored-pair-b")
	k.eventually("no snapshot is left", is(""), "get", "volumesnapshots,volumesnapshotcontents,volumegroupsnapshotcontents", "-o", "name")
}

// memberOf returns the group's snapshot of a claim's volume.
func (k *kubernetes) memberOf(claim string) string {
	k.t.Helper()
	volume := k.ctl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	handle := k.ctl("get", "pv", volume, "-o", "jsonpath={.spec.csi.volumeHandle}")
	contents := k.ctl("get", "volumesnapshotcontents", "-o", "jsonpath={range .items[*]}{.spec.source.volumeHandle} {.spec.volumeSnapshotRef.name}{\"\\n\"}{end}")
	for line := range strings.Lines(contents) {
		if of, name, _ := strings.Cut(strings.TrimSpace(line), " "); of == handle {
			return name
		}
	}
	k.t.Fatalf("no snapshot of %s (%s) is in\n%s", claim, handle, contents)
	return ""
}

// changedBlocks asks for what a snapshot has, and for what two differ in: at the driver, and
// as a backup program does, at Kubernetes' sidecar with a token.
func changedBlocks(k *kubernetes) {
	k.apply(rawPod)
	k.running("raw")
	write := func(mib string) {
		k.in("raw", "dd if=/dev/urandom of=/dev/xvda bs=1M count=1 conv=notrunc,fsync seek="+mib+" 2>/dev/null")
	}
	write("3")
	k.apply(snapshotOf("before", "raw", "holdfast"))
	k.eventually("the first snapshot is ready", is("true"), "get", "volumesnapshot", "before", "-o", "jsonpath={.status.readyToUse}")
	write("20")
	k.apply(snapshotOf("after", "raw", "holdfast"))
	k.eventually("the second snapshot is ready", is("true"), "get", "volumesnapshot", "after", "-o", "jsonpath={.status.readyToUse}")
	base := k.ctl("get", "volumesnapshotcontent", k.ctl("get", "volumesnapshot", "before", "-o", "jsonpath={.status.boundVolumeSnapshotContentName}"), "-o", "jsonpath={.status.snapshotHandle}")
	target := k.ctl("get", "volumesnapshotcontent", k.ctl("get", "volumesnapshot", "after", "-o", "jsonpath={.status.boundVolumeSnapshotContentName}"), "-o", "jsonpath={.status.snapshotHandle}")
	const mib = 1 << 20
	allocated, delta := []span{{3 * mib, mib}, {20 * mib, mib}}, []span{{20 * mib, mib}}

	direct := k.dialDriver()
	defer direct.Close()
	k.sameSpans("the driver, allocated", allocated, direct, csi.SnapshotMetadata_GetMetadataAllocated_FullMethodName,
		must(proto.Marshal(&csi.GetMetadataAllocatedRequest{SnapshotId: target})))
	k.sameSpans("the driver, delta", delta, direct, csi.SnapshotMetadata_GetMetadataDelta_FullMethodName,
		must(proto.Marshal(&csi.GetMetadataDeltaRequest{BaseSnapshotId: base, TargetSnapshotId: target})))

	k.apply(backupAccount)
	token := k.ctl("create", "token", "backup", "--audience=holdfast-metadata")
	sidecar := k.dialSidecar()
	defer sidecar.Close()
	k.sameSpans("the sidecar, allocated", allocated, sidecar, "/snapshotmetadata.SnapshotMetadata/GetMetadataAllocated",
		message(token, "default", "after"))
	k.sameSpans("the sidecar, delta", delta, sidecar, "/snapshotmetadata.SnapshotMetadata/GetMetadataDelta",
		message(token, "default", base, "after"))
	k.ctl("delete", "volumesnapshot", "before", "after")
	k.ctl("delete", "pod", "raw")
	k.ctl("delete", "pvc", "raw")
}

// span is bytes of a volume.
type span struct{ offset, length int64 }

// message makes a protobuf message whose first fields are texts.
func message(texts ...string) (raw []byte) {
	for i, text := range texts {
		raw = protowire.AppendString(protowire.AppendTag(raw, protowire.Number(i+1), protowire.BytesType), text)
	}
	return raw
}

// asIs sends messages that are bytes already: the sidecar's protocol has no package here.
type asIs struct{}

func (asIs) Name() string                  { return "proto" }
func (asIs) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (asIs) Unmarshal(raw []byte, v any) error {
	*v.(*[]byte) = slices.Clone(raw)
	return nil
}

// sameSpans calls a method and compares the ranges that it streams. Both protocols have the
// same answers. Ranges that touch are one.
func (k *kubernetes) sameSpans(what string, want []span, conn *grpc.ClientConn, method string, request []byte) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodec(asIs{}))
	if err == nil {
		err = stream.SendMsg(&request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	var got []span
	for err == nil {
		var raw []byte
		if err = stream.RecvMsg(&raw); err != nil {
			break
		}
		var answer csi.GetMetadataDeltaResponse
		if err = proto.Unmarshal(raw, &answer); err != nil {
			break
		}
		for _, b := range answer.BlockMetadata {
			if n := len(got); n > 0 && got[n-1].offset+got[n-1].length == b.ByteOffset {
				got[n-1].length += b.SizeBytes
			} else {
				got = append(got, span{b.ByteOffset, b.SizeBytes})
			}
		}
	}
	if err != io.EOF || !slices.Equal(got, want) {
		k.t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
	}
}

// dialDriver connects to the socket of a controller's driver, from outside of its pod.
func (k *kubernetes) dialDriver() *grpc.ClientConn {
	k.t.Helper()
	node, uid, _ := strings.Cut(k.ctl("get", "pods", "-n", "holdfast", "-l", "app.kubernetes.io/component=controller", "-o", "jsonpath={.items[0].spec.nodeName} {.items[0].metadata.uid}"), " ")
	short := filepath.Join(k.t.TempDir(), "pod") // a socket's path is at most 107 bytes long
	if err := os.Symlink(filepath.Join(k.run(), "nodes", node, "var/lib/kubelet/pods", uid, "volumes/kubernetes.io~empty-dir/csi"), short); err != nil {
		k.t.Fatal(err)
	}
	return must(grpc.NewClient("unix://"+filepath.Join(short, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost")))
}

// metadataCertificate makes the certificate that the sidecar serves with.
func (k *kubernetes) metadataCertificate() {
	if _, err := k.script("", "cert", k.name, "metadata", "/CN=holdfast-metadata", "DNS:holdfast-metadata.holdfast.svc"); err != nil {
		k.t.Fatal(err)
	}
	at := filepath.Join(k.run(), "pki", "metadata")
	k.ctl("create", "secret", "tls", "holdfast-metadata", "-n", "holdfast", "--cert", at+".crt", "--key", at+".key")
}

// dialSidecar connects to a controller's sidecar, as a program in the cluster's network.
func (k *kubernetes) dialSidecar() *grpc.ClientConn {
	k.t.Helper()
	address := k.ctl("get", "pods", "-n", "holdfast", "-l", "app.kubernetes.io/component=controller", "-o", "jsonpath={.items[0].status.podIP}") + ":7411"
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must(os.ReadFile(filepath.Join(k.run(), "pki", "ca.crt"))))
	return must(grpc.NewClient("passthrough:///"+address, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return k.dial(ctx, address) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "holdfast-metadata.holdfast.svc"}))))
}

// dial connects from the network of the control plane. A socket stays in the network in which
// it was made; the thread that went there is not used again.
func (k *kubernetes) dial(ctx context.Context, address string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open("/run/netns/k8s-" + k.name)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		var conn net.Conn
		if err == nil {
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		}
		done <- dialled{conn, err}
	}()
	d := <-done
	return d.conn, d.err
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
