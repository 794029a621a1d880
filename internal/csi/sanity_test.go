package csi_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// serve runs a driver on the cluster's first node, and returns its socket.
func serve(t *testing.T, c *csitest.Cluster, o csi.Options) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices and mounts need root")
	}
	o.API, o.Node, o.Dir, o.Controller, o.Version = csi.NewAPI(c.Client, c.URL), c.Nodes[0].ID, t.TempDir(), true, "test"
	d, err := csi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "csi.sock")
	listener, err := csi.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, listener, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := patiently.From(t, done); err != nil {
			t.Error(err)
		}
	})
	return socket
}

// TestSanity is Kubernetes' conformance suite for drivers. Nothing may fail, and nothing
// may be skipped but what the driver says it can't do, by name.
func TestSanity(t *testing.T) {
	c := csitest.Start(t, 1)
	dir := t.TempDir()
	config := sanity.NewTestConfig()
	config.Address = "unix://" + serve(t, c, csi.Options{VolumesPerNodeMax: 3})
	config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
	config.TestVolumeSize, config.TestVolumeExpandSize = 320<<20, 400<<20
	config.TestVolumeParameters = map[string]string{"fs": "xfs", "repl": "1"} // the kernel grows ext4 for processes with CAP_SYS_RESOURCE only
	config.TestVolumeMutableParameters = map[string]string{"iops": "5000"}
	config.TestSnapshotParameters = map[string]string{"freeze": "false"}
	config.TestNodeVolumeAttachLimit = true
	config.IdempotentCount = 3

	gomega.RegisterFailHandler(ginkgo.Fail)
	suiteContext := sanity.GinkgoTest(&config)
	defer suiteContext.Finalize()
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct, reporter.NoColor = true, true
	var skipped, passed []string
	ginkgo.ReportAfterEach(func(r types.SpecReport) {
		switch r.State {
		case types.SpecStatePending: // the suite itself has it switched off
		case types.SpecStateSkipped:
			skipped = append(skipped, r.FullText()+": "+r.Failure.Message)
		case types.SpecStatePassed:
			passed = append(passed, r.FullText())
		}
	})
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		t.Error("csi-sanity failed")
	}
	t.Logf("csi-sanity: %d passed, %d skipped", len(passed), len(skipped))
	if len(passed) < 100 {
		t.Errorf("%d passed: the suite has more", len(passed))
	}
	// What the driver does not offer: a volume lies on several nodes, and so does its snapshot;
	// what nodes store on is not what Kubernetes would know how to mend.
	for _, s := range skipped {
		if !strings.Contains(s, "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported") && !strings.Contains(s, "NodeGetStorageHealth not supported") {
			t.Errorf("skipped: %s", s)
		}
	}
}

func getVolume(id string) *holdfastv1.GetVolumeRequest {
	return &holdfastv1.GetVolumeRequest{Volume: id}
}
