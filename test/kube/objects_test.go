//go:build kube

package kube

import "fmt"

const image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"

// testValues are the chart's values here. The kernel grows ext4 for processes with
// CAP_SYS_RESOURCE only, which a test machine may lack, so filesystems are XFS.
const testValues = `
image: {repository: localhost/holdfast, tag: "1"}
node:
  args: ["--pool=/var/lib/holdfast/pool", "--pool-size=4Gi", "--link-dir=/run/holdfast/dev"]
sidecars: {provisioner: "localhost/csi:1", attacher: "localhost/csi:1", resizer: "localhost/csi:1", snapshotter: "localhost/csi:1"}
storageClasses:
  - {name: holdfast, default: true, reclaimPolicy: Delete, parameters: {repl: "2", fs: xfs}}
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
        - {name: c, image: "localhost/csi:1", command: [snapshot-controller, --v=3, --leader-election=false]}
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

func snapshotOf(name, claim string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec: {volumeSnapshotClassName: holdfast, source: {persistentVolumeClaimName: %s}}
`, name, claim)
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
spec: {accessModes: [ReadWriteOncePod], volumeMode: Block, storageClassName: holdfast, resources: {requests: {storage: 64Mi}}}
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
