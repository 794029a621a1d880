//go:build kube

package kube

import (
	"fmt"
	"strings"
)

const image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"

// testValues are the chart's values here. The kernel grows ext4 for processes with
// CAP_SYS_RESOURCE only, which a test machine may lack, so filesystems are XFS.
const testValues = `
image: {repository: localhost/holdfast, tag: "1"}
keeper: {tag: "1"}
node:
  args: ["--pool=/var/lib/holdfast/pool", "--pool-size=4Gi", "--link-dir=/run/holdfast/dev"]
sidecars: {provisioner: "localhost/csi:1", attacher: "localhost/csi:1", resizer: "localhost/csi:1", snapshotter: "localhost/csi:1", metadata: "localhost/csi:1"}
scheduler: {enabled: true, replicas: 1, image: "localhost/kube-scheduler:1"}
snapshots: {groups: true}
snapshotMetadata: {enabled: true}
storageClasses:
  - {name: holdfast, default: true, reclaimPolicy: Delete, parameters: {repl: "2", fs: xfs}}
  - {name: holdfast-one, default: false, reclaimPolicy: Delete, parameters: {repl: "1", fs: ext4}}
`

const snapshotController = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: snapshot-controller, namespace: kube-system}
spec:
  selector: {matchLabels: {app: snapshot-controller}}
  template:
    metadata: {labels: {app: snapshot-controller}}
    spec:
      serviceAccountName: snapshot-controller
      tolerations: [{operator: Exists}]
      containers:
        - {name: c, image: "localhost/csi:1", command: [snapshot-controller, --v=3, --leader-election=false, --feature-gates=CSIVolumeGroupSnapshot=true]}
`

func statefulSet(name, class string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s}
spec:
  serviceName: %[1]s
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: c
          image: %[3]s
          command: [sh, -c, %[4]q]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], storageClassName: %[2]s, resources: {requests: {storage: 512Mi}}}
`, name, class, image, writer)
}

func podWith(name, claim string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: %q, command: [sleep, "100000"], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
`, name, image, claim)
}

func snapshotOf(name, claim, class string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec: {volumeSnapshotClassName: %s, source: {persistentVolumeClaimName: %s}}
`, name, class, claim)
}

func claimFrom(name, group, kind, source string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: holdfast
  resources: {requests: {storage: 600Mi}}
  dataSource: {apiGroup: %q, kind: %s, name: %s}
`, name, group, kind, source)
}

const rawPod = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {accessModes: [ReadWriteOncePod], volumeMode: Block, storageClassName: holdfast, volumeAttributesClassName: holdfast-three-copies, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: raw}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: "` + image + `", command: [sleep, "100000"], volumeDevices: [{name: data, devicePath: /dev/xvda}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: raw}}]
`

func claim(name, class, size string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, labels: {test: "true"}}
spec: {accessModes: [ReadWriteOnce], storageClassName: %s, resources: {requests: {storage: %s}}}
`, name, class, size)
}

// labelled puts a claim into a group.
func labelled(object, group string) string {
	return strings.Replace(object, `labels: {test: "true"}`, `labels: {test: "true", group: `+group+`}`, 1)
}

// onNode puts a pod on a node, without asking the scheduler for anything else.
func onNode(object, node string) string {
	return strings.Replace(object, "spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+node+"}\n", 1)
}

// podWithTwo has its volumes at /a, /b, and so on.
func podWithTwo(name, command string, claims ...string) string {
	var mounts, volumes []string
	for i, c := range claims {
		letter := string(rune('a' + i))
		mounts = append(mounts, fmt.Sprintf("{name: %s, mountPath: /%[1]s}", letter))
		volumes = append(volumes, fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %s}}", letter, c))
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {test: "true"}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: c, image: %q, command: [sh, -c, %q], volumeMounts: [%s]}
  volumes: [%s]
`, name, image, command, strings.Join(mounts, ", "), strings.Join(volumes, ", "))
}

// backupAccount is who may ask for the metadata of snapshots.
const backupAccount = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: backup}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: backup}
rules:
  - {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots, volumesnapshotcontents], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: backup}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: backup}
subjects: [{kind: ServiceAccount, name: backup, namespace: default}]
`
