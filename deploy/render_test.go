package deploy_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/deploy"
)

var update = flag.Bool("update", false, "write holdfast.yaml anew")

const manifest = "holdfast.yaml"

// namespace is before the chart's objects in the plain manifest. Its label lets it have
// privileged pods.
const namespace = `# The Helm chart with its default values, in the namespace holdfast. Written by
# go test ./deploy -update; change the chart instead.
apiVersion: v1
kind: Namespace
metadata:
  name: holdfast
  labels: {pod-security.kubernetes.io/enforce: privileged}
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object struct {
	APIVersion, Kind string
	Metadata         struct{ Name, Namespace string }
	Spec             struct {
		Template struct {
			Spec struct {
				ServiceAccountName         string
				Containers, InitContainers []container
				Volumes                    []struct{ Name string }
			}
		}
	}
}

type container struct {
	Name, Image   string
	Command, Args []string
	VolumeMounts  []struct{ Name, MountPath, MountPropagation string }
}

// objects parses a rendering, strictly as far as YAML goes.
func objects(t *testing.T, text string) (all []object) {
	t.Helper()
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var any map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc), &any); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		var o object
		must(t, yaml.Unmarshal([]byte(doc), &o))
		all = append(all, o)
	}
	return all
}

func TestManifestIsTheChartWithItsDefaults(t *testing.T) {
	text, err := deploy.Render("holdfast", nil)
	must(t, err)
	text = namespace + text
	if *update {
		must(t, os.WriteFile(manifest, []byte(text), 0o644))
	}
	there, err := os.ReadFile(manifest)
	must(t, err)
	if string(there) != text {
		t.Error("holdfast.yaml is not what the chart says: go test ./deploy -update")
	}
}

func TestEveryObjectIsWhole(t *testing.T) {
	on := map[string]any{"enabled": true}
	off := map[string]any{"enabled": false}
	for name, values := range map[string]map[string]any{
		"defaults": nil,
		"all":      {"extender": on, "scheduler": on, "snapshotMetadata": on, "serviceMonitor": on, "prometheusRule": on, "dashboards": on, "snapshots": map[string]any{"groups": true}, "node": map[string]any{"args": []any{"--zone=a"}}},
		"least":    {"monitor": off, "snapshots": off, "storageClasses": []any{}, "volumeAttributesClasses": []any{}},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := deploy.Render("storage", values)
			must(t, err)
			seen, accounts := map[string]bool{}, []string{""}
			for _, o := range objects(t, text) {
				id := o.Kind + "/" + o.Metadata.Name
				if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" || seen[id] {
					t.Errorf("%s is not whole, or there twice", id)
				}
				seen[id] = true
				reads := o.Kind == "RoleBinding" && o.Metadata.Namespace == "kube-system" // what the API server leaves there for others
				if o.Metadata.Namespace != "" && o.Metadata.Namespace != "storage" && !reads {
					t.Errorf("%s is in another namespace", id)
				}
				if o.Kind == "ServiceAccount" {
					accounts = append(accounts, o.Metadata.Name)
				}
				pod := o.Spec.Template.Spec
				for _, c := range append(pod.InitContainers, pod.Containers...) {
					if c.Image == "" || strings.HasSuffix(c.Image, ":") {
						t.Errorf("%s: container %s has the image %q", id, c.Name, c.Image)
					}
					for _, m := range c.VolumeMounts {
						if !slices.ContainsFunc(pod.Volumes, func(v struct{ Name string }) bool { return v.Name == m.Name }) {
							t.Errorf("%s: container %s mounts %s, which is no volume", id, c.Name, m.Name)
						}
					}
				}
			}
			for _, o := range objects(t, text) {
				if a := o.Spec.Template.Spec.ServiceAccountName; !slices.Contains(accounts, a) {
					t.Errorf("%s runs as %s, which is not there", o.Metadata.Name, a)
				}
			}
			if monitors := strings.Contains(text, "kube, monitor"); monitors == (name == "least") {
				t.Errorf("the monitor is there: %v", monitors)
			}
		})
	}
}

// TestUpgradeLeavesDevicesAlone holds what upgrades without touching mounts rest on.
func TestUpgradeLeavesDevicesAlone(t *testing.T) {
	text, err := deploy.Render("holdfast", nil)
	must(t, err)
	i := strings.Index(text, "name: holdfast-keeper")
	if i < 0 || !strings.Contains(text[i:i+400], "updateStrategy: {type: OnDelete}") || !strings.Contains(text[i:i+400], "helm.sh/resource-policy: keep") {
		t.Error("the keeper would be replaced by an upgrade, or go when the chart goes")
	}
}

// TestPoolsAreMountedOnce: a container with a directory below which pools are mounted, and
// to which no unmounting comes, would keep their devices in use for as long as it lives.
func TestPoolsAreMountedOnce(t *testing.T) {
	text, err := deploy.Render("holdfast", nil)
	must(t, err)
	seen := 0
	for _, o := range objects(t, text) {
		for _, c := range o.Spec.Template.Spec.Containers {
			for _, m := range c.VolumeMounts {
				if m.MountPath != "/var/lib/holdfast" {
					continue
				}
				if seen++; m.MountPropagation != "Bidirectional" {
					t.Errorf("container %s of %s takes copies of mounts", c.Name, o.Metadata.Name)
				}
			}
		}
	}
	if seen != 1 {
		t.Errorf("%d containers have the node's directory", seen)
	}
}
