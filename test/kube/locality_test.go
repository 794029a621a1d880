//go:build kube

package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// copies returns the names of the nodes that hold a copy of a claim's volume.
func (k *kubernetes) copies(claim string) (names []string) {
	k.t.Helper()
	volume := k.ctl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	var v struct {
		Status struct {
			Replicas []struct{ NodeID string }
		}
	}
	if err := json.Unmarshal([]byte(k.holdfast("volume", "get", volume, "-o", "json")), &v); err != nil {
		k.t.Fatal(err)
	}
	drivers := k.ctl("get", "csinodes", "-o", "jsonpath={range .items[*]}{.metadata.name} {.spec.drivers[0].nodeID}{\"\\n\"}{end}")
	for _, r := range v.Status.Replicas {
		for line := range strings.Lines(drivers) {
			if name, id, _ := strings.Cut(strings.TrimSpace(line), " "); id == r.NodeID {
				names = append(names, name)
			}
		}
	}
	return names
}

// one is a volume of one copy, and a pod that uses it.
func one(i int) string { return fmt.Sprintf("one-%d", i) }

// firstCopy schedules a pod to each node in turn: the only copy of its new volume is there.
func firstCopy(k *kubernetes) {
	for i := 1; i <= 3; i++ {
		node := fmt.Sprintf("%s-%d", k.name, i)
		k.apply(claim(one(i), "holdfast-one", "64Mi") + "---" + onNode(podWith(one(i), one(i)), node))
	}
	for i := 1; i <= 3; i++ {
		k.running(one(i))
		if on := k.copies(one(i)); !slices.Equal(on, []string{fmt.Sprintf("%s-%d", k.name, i)}) {
			k.t.Errorf("the copy of %s is on %v", one(i), on)
		}
	}
}

// podsGoToTheirData leaves the choice of the node to the chart's scheduler.
func podsGoToTheirData(k *kubernetes) {
	for round := range 2 {
		for i := 1; i <= 3; i++ {
			k.ctl("delete", "pod", one(i))
		}
		for i := 3; i >= 1; i-- {
			k.apply(strings.Replace(podWith(one(i), one(i)), "spec:\n", "spec:\n  schedulerName: holdfast\n", 1))
		}
		for i := 1; i <= 3; i++ {
			k.running(one(i))
			if node := k.on(one(i)); node != fmt.Sprintf("%s-%d", k.name, i) {
				k.t.Errorf("round %d: pod %s is on %s", round, one(i), node)
			}
		}
	}
	for i := 1; i <= 3; i++ {
		k.ctl("delete", "pod", one(i))
		k.ctl("delete", "pvc", one(i))
	}
}
