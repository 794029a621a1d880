// Package deploy renders the Helm chart of this directory, without Helm: for the plain
// manifest that lies beside it, and for tests. The chart keeps to what is understood here
// (toYaml, indent, quote, default), so that both render the same.
package deploy

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

//go:embed helm/holdfast
var chart embed.FS

const chartDir = "helm/holdfast"

// Render returns the chart's objects, as one YAML stream, for a namespace. Values override
// those of values.yaml: maps are merged, everything else is replaced.
func Render(namespace string, values map[string]any) (string, error) {
	defaults, about := map[string]any{}, map[string]any{}
	for file, into := range map[string]*map[string]any{"values.yaml": &defaults, "Chart.yaml": &about} {
		raw, err := chart.ReadFile(path.Join(chartDir, file))
		if err != nil {
			return "", err
		}
		if err := yaml.Unmarshal(raw, into); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	}
	merge(defaults, values)
	data := map[string]any{"Values": defaults, "Release": map[string]any{"Namespace": namespace, "Name": "holdfast"},
		"Files": files{}, "Chart": map[string]any{"AppVersion": about["appVersion"], "Version": about["version"]}}
	entries, err := chart.ReadDir(path.Join(chartDir, "templates"))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, e := range entries {
		text, err := render(path.Join(chartDir, "templates", e.Name()), data)
		if err != nil {
			return "", err
		}
		if text = strings.TrimSpace(text); text != "" {
			fmt.Fprintf(&out, "---\n%s\n", text)
		}
	}
	return out.String(), nil
}

// files are Helm's .Files.
type files struct{}

// Get returns a file of the chart; Helm's returns nothing for one that is not there.
func (files) Get(name string) (string, error) {
	raw, err := chart.ReadFile(path.Join(chartDir, name))
	return string(raw), err
}

func merge(under, over map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(over)) {
		a, isMap := under[key].(map[string]any)
		if b, bothMaps := over[key].(map[string]any); isMap && bothMaps {
			merge(a, b)
			continue
		}
		under[key] = over[key]
	}
}

// render renders one template. A value that is not there is an error, and not Helm's
// empty text.
func render(file string, data any) (string, error) {
	raw, err := chart.ReadFile(file)
	if err != nil {
		return "", err
	}
	t, err := template.New(file).Option("missingkey=error").Funcs(template.FuncMap{
		"toYaml": func(v any) (string, error) {
			raw, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(raw), "\n"), err
		},
		"indent": func(n int, text string) string {
			pad := strings.Repeat(" ", n)
			return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
		},
		"quote": func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"default": func(otherwise, v any) any {
			if v == nil || v == "" {
				return otherwise
			}
			return v
		},
	}).Parse(string(raw))
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return "", err
	}
	return out.String(), nil
}
