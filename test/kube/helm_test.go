//go:build kube

package kube

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/deploy"
)

const chart = "../../deploy/helm/holdfast"

// helm runs Helm with the test's values, which has to go well.
func (k *kubernetes) helm(args ...string) string {
	k.t.Helper()
	out, err := k.script(testValues, append([]string{"helm", k.name}, args...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// release runs a verb of Helm that takes the chart.
func (k *kubernetes) release(verb string, args ...string) {
	k.t.Helper()
	certificate, err := os.ReadFile(filepath.Join(k.run(), "pki", "ca.crt"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.helm(append([]string{verb, "holdfast", chart, "-n", "holdfast", "-f", "-", "--wait", "--timeout", "220s",
		"--set", "snapshotMetadata.caCert=" + base64.StdEncoding.EncodeToString(certificate)}, args...)...)
}

// run is where the cluster script keeps what belongs to the cluster.
func (k *kubernetes) run() string { return filepath.Join(k.dir, "run", k.name) }

// install installs the chart with Helm, as docs/kubernetes.md says.
func (k *kubernetes) install() {
	if said := k.helm("lint", "--strict", chart, "-f", "-"); !strings.Contains(said, "0 chart(s) failed") {
		k.t.Errorf("helm lint says %s", said)
	}
	want, err := deploy.Render("holdfast", nil)
	if err != nil {
		k.t.Fatal(err)
	}
	if got := k.helm("template", "holdfast", chart, "-n", "holdfast"); !reflect.DeepEqual(k.objects(got), k.objects(want)) {
		k.t.Error("Helm renders other objects than deploy.Render, and so than deploy/holdfast.yaml")
	}
	k.ctl("create", "namespace", "holdfast")
	k.ctl("label", "namespace", "holdfast", "pod-security.kubernetes.io/enforce=privileged")
	k.metadataCertificate()
	k.release("install")
	k.ready()
	k.holdfast("cluster", "set", "trash_keep=0s")
}

// objects parses a rendering, by kind and name.
func (k *kubernetes) objects(text string) map[string]any {
	k.t.Helper()
	all := map[string]any{}
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			k.t.Fatal(err)
		}
		if o != nil {
			all[fmt.Sprint(o["kind"], "/", o["metadata"].(map[string]any)["name"])] = o
		}
	}
	return all
}

// ready waits until all of Holdfast runs.
func (k *kubernetes) ready() {
	k.t.Helper()
	k.eventually("the keepers are ready", is("3"), "get", "daemonset", "holdfast-keeper", "-n", "holdfast", "-o", "jsonpath={.status.numberReady}")
	for _, what := range []string{"daemonset/holdfast", "deployment/holdfast-controller", "deployment/holdfast-scheduler"} {
		k.ctl("rollout", "status", "-n", "holdfast", what, "--timeout=200s")
	}
	for _, node := range []string{"-1", "-2", "-3"} {
		k.eventually("the kubelet knows the driver", func(out string) bool { return strings.Contains(out, "csi.holdfast.io") },
			"get", "csinode", k.name+node, "-o", "jsonpath={.spec.drivers[*].name}")
	}
}

func plugin(k *kubernetes) {
	volume := k.ctl("get", "pvc", "data-db-0", "-o", "jsonpath={.spec.volumeName}")
	if said := k.ctl("holdfast", "volume", "list"); !strings.Contains(said, volume) {
		k.t.Errorf("kubectl holdfast volume list says %s", said)
	}
}

// pods returns what is asked of the pods of a component, one a line.
func (k *kubernetes) pods(component, path string, more ...string) string {
	k.t.Helper()
	return k.ctl(append([]string{"get", "pods", "-n", "holdfast", "-l", "app.kubernetes.io/component=" + component,
		"-o", "jsonpath={range .items[*]}" + path + "{\"\\n\"}{end}", "--sort-by=.metadata.name"}, more...)...)
}

// mounts returns the mounts of volumes on the node that the writer is on.
func (k *kubernetes) mounts() string {
	k.t.Helper()
	node := k.on("db-0")
	out, err := k.script("", "in", k.name, node[len(node)-1:], "sh", "-c", "grep /kubernetes.io/csi/ /proc/self/mountinfo | grep -v tmpfs | sort")
	if err != nil || out == "" {
		k.t.Fatalf("no mount is found: %v", err)
	}
	return out
}

// keeperRun is which run of a keeper there is: the pod, and how often it was started.
const keeperRun = "{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].containerID}"

// helmUpgrade upgrades to another image and other values while a pod writes.
func helmUpgrade(k *kubernetes) {
	for _, node := range []string{"1", "2", "3"} {
		if _, err := k.script("", "tag", k.name, node, "localhost/holdfast:1", "localhost/holdfast:2"); err != nil {
			k.t.Fatal(err)
		}
	}
	keepers, mounts, before := k.pods("keeper", keeperRun), k.mounts(), k.lines()
	k.release("upgrade", "--set", "image.tag=2", "--set", "node.volumesMax=50", "--set", "monitor.kubeletPatience=24s")
	k.ready()
	for _, component := range []string{"node", "controller"} {
		images := k.pods(component, "{.spec.containers[*].image}")
		if strings.Contains(images, "localhost/holdfast:1") || !strings.Contains(images, "localhost/holdfast:2") {
			k.t.Errorf("the pods of the %s are of %s", component, images)
		}
	}
	k.eventually("the kubelets know the new limit", is("50 50 50"), "get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[0].allocatable.count}")
	if now := k.pods("keeper", keeperRun); now != keepers {
		k.t.Errorf("the keepers were replaced, or ended: %s, now %s", keepers, now)
	}
	if now := k.mounts(); now != mounts {
		k.t.Errorf("the mounts were\n%s\nand are\n%s", mounts, now)
	}
	k.writes(before)
	// The way back is an upgrade too.
	before = k.lines()
	k.helm("rollback", "holdfast", "1", "-n", "holdfast", "--wait", "--timeout", "220s")
	k.ready()
	k.writes(before)
}

// helmUninstall uninstalls the chart under a pod: what it has mounted waits for the next
// release, which finds the cluster as it was.
func helmUninstall(k *kubernetes) {
	keepers, mounts, volumes := k.pods("keeper", keeperRun), k.mounts(), k.ctl("get", "pv", "-o", "name")
	before := k.lines()
	k.helm("uninstall", "holdfast", "-n", "holdfast")
	k.eventually("nothing but keepers runs", is("keeper keeper keeper"), "get", "pods", "-n", "holdfast", "-o", "jsonpath={.items[*].metadata.labels.app\\.kubernetes\\.io/component}")
	if left := k.ctl("get", "csidriver,storageclass,volumesnapshotclass,volumegroupsnapshotclass,clusterrole,clusterrolebinding", "-o", "name"); strings.Contains(left, "holdfast") {
		k.t.Errorf("left of the release: %s", left)
	}
	if now := k.pods("keeper", keeperRun); now != keepers {
		k.t.Errorf("the keepers were %s, and are %s", keepers, now)
	}
	if now := k.ctl("get", "pv", "-o", "name"); now != volumes {
		k.t.Errorf("the volumes were %s, and are %s", volumes, now)
	}
	k.release("install")
	k.ready()
	if now := k.mounts(); now != mounts {
		k.t.Errorf("the mounts were\n%s\nand are\n%s", mounts, now)
	}
	k.writes(before)
}

// keeperReplaced replaces the keeper of a node, as docs/kubernetes.md says: the pods with
// volumes leave the node first.
func keeperReplaced(k *kubernetes) {
	if _, err := k.script("", "tag", k.name, "1", "localhost/holdfast:1", "localhost/holdfast:2"); err != nil {
		k.t.Fatal(err)
	}
	was := k.pods("keeper", "{.metadata.uid}")
	k.ctl("patch", "daemonset", "holdfast-keeper", "-n", "holdfast", "--type=json", "-p", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"localhost/holdfast:2"}]`)
	node := k.name + "-1"
	k.ctl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=200s")
	k.eventually("no volume is attached there", is(""), "get", "volumeattachments", "-o", `jsonpath={.items[?(@.spec.nodeName=="`+node+`")].metadata.name}`)
	k.running("db-0")
	before := k.lines()
	if now := k.pods("keeper", "{.metadata.uid}"); now != was {
		k.t.Errorf("the keepers were replaced unasked: %s, now %s", was, now)
	}
	k.ctl("delete", "pod", "-n", "holdfast", "-l", "app.kubernetes.io/component=keeper", "--field-selector", "spec.nodeName="+node)
	k.ready()
	if image := k.pods("keeper", "{.spec.containers[0].image}", "--field-selector", "spec.nodeName="+node); image != "localhost/holdfast:2" {
		k.t.Errorf("the keeper's image is %s", image)
	}
	k.ctl("uncordon", node)
	// A volume is shown by the new keeper.
	k.apply(claim("kept", "holdfast", "512Mi") + "---" + onNode(podWith("kept", "kept"), node))
	k.running("kept")
	k.in("kept", "echo kept > /data/f && sync /data/f")
	k.ctl("delete", "pod", "kept")
	k.ctl("delete", "pvc", "kept")
	k.writes(before)
}

// helmGone uninstalls the chart for good.
func helmGone(k *kubernetes) {
	k.helm("uninstall", "holdfast", "-n", "holdfast")
	k.ctl("delete", "daemonset", "holdfast-keeper", "-n", "holdfast", "--wait=true")
	k.ctl("delete", "volumeattributesclass", "holdfast-throttled", "holdfast-three-copies")
	k.eventually("no pod is left", is(""), "get", "pods", "-n", "holdfast", "-o", "name")
	k.ctl("delete", "namespace", "holdfast")
	all := k.ctl("get", "csidriver,storageclass,volumesnapshotclass,volumegroupsnapshotclass,volumeattributesclass,clusterrole,clusterrolebinding,pv,volumeattachment,namespace", "-o", "name")
	if strings.Contains(all, "holdfast") {
		k.t.Errorf("left: %s", all)
	}
	for _, node := range []string{"1", "2", "3"} {
		out, err := k.script("", "in", k.name, node, "sh", "-c", "grep -c ' /dev/loop.*csi' /proc/self/mountinfo; ls /var/lib/kubelet/plugins_registry")
		if !strings.HasPrefix(out, "0") || strings.Contains(out, "holdfast") {
			k.t.Errorf("left on node %s: %s, %v", node, out, err)
		}
	}
}
