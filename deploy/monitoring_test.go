package deploy_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

const monitoring = "helm/holdfast/monitoring"

// ruleFile is Prometheus' format of rules; what it doesn't know is refused.
type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type dashboard struct {
	Title, UID string
	Templating struct {
		List []struct{ Name, Query string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr string }
	}
}

// metricNames are those of a server and of a data process.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	c := servertest.Start(t, servertest.Options{Data: filepath.Join(t.TempDir(), "none.sock")})
	c.Stage.Nodes(1)
	_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "db", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30}})
	must(t, err)
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1"})
	must(t, err)
	_, err = c.Client.Nodes.DrainNode(c.Ctx, &v1.DrainNodeRequest{Node: "n1", Draining: true})
	must(t, err)
	r, err := c.Transport().Get("http://holdfast/metrics")
	must(t, err)
	text, err := io.ReadAll(r.Body)
	must(t, err)
	_ = r.Body.Close()
	for _, m := range regexp.MustCompile(`(?m)^(holdfast_\w+)[{ ]`).FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	source, err := os.ReadFile("../internal/node/metrics.go")
	must(t, err)
	for _, m := range regexp.MustCompile(`NewDesc\("(holdfast_\w+)"`).FindAllStringSubmatch(string(source), -1) {
		names[m[1]] = true
		if strings.HasSuffix(m[1], "_seconds") { // histograms
			names[m[1]+"_bucket"], names[m[1]+"_count"], names[m[1]+"_sum"] = true, true, true
		}
	}
	return names
}

var metricName = regexp.MustCompile(`holdfast_\w+`)

// expression has Prometheus read an expression, and checks that all metrics exist. What
// Grafana fills in is an example.
func expression(t *testing.T, names map[string]bool, where, expr string) {
	t.Helper()
	read, err := parser.ParseExpr(strings.ReplaceAll(expr, "$__rate_interval", "5m"))
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expr)
		return
	}
	used := 0
	parser.Inspect(read, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			if used++; !names[v.Name] {
				t.Errorf("%s: nobody shows a metric %q", where, v.Name)
			}
		}
		return nil
	})
	if used == 0 {
		t.Errorf("%s: %s has no metric", where, expr)
	}
}

func TestAlertsAreOfMetricsThatExist(t *testing.T) {
	names := metricNames(t)
	raw, err := os.ReadFile(filepath.Join(monitoring, "alerts.yaml"))
	must(t, err)
	var file ruleFile
	must(t, yaml.UnmarshalStrict(raw, &file))
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			expression(t, names, r.Alert, r.Expr)
			if r.For != "" {
				_, err := time.ParseDuration(r.For)
				must(t, err)
			}
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Holdfast") || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
				r.Labels["severity"] != "warning" && r.Labels["severity"] != "critical" {
				t.Errorf("%s is there twice, or not whole: %+v", r.Alert, r)
			}
			seen[r.Alert] = true
		}
	}
	if len(seen) < 10 {
		t.Errorf("there are only %d alerts", len(seen))
	}
}

func TestDashboardIsOfMetricsThatExist(t *testing.T) {
	names := metricNames(t)
	raw, err := os.ReadFile(filepath.Join(monitoring, "dashboard.json"))
	must(t, err)
	var d dashboard
	must(t, json.Unmarshal(raw, &d))
	ids, places := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d (%s) is there twice, or out of place", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := places[[2]int{x, y}]; other != "" {
					t.Fatalf("panel %q lies over %q", p.Title, other)
				}
				places[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			expression(t, names, p.Title, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if strings.Contains(v.Query, "label_values") {
			for _, name := range metricName.FindAllString(v.Query, -1) { // it is Grafana's, not Prometheus'
				expression(t, names, v.Name, name)
			}
		}
	}
	if d.UID != "holdfast" || len(d.Panels) < 15 {
		t.Errorf("the dashboard is %q with %d panels", d.UID, len(d.Panels))
	}
}
