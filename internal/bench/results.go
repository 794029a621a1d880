package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Merge replaces, in the file of results at path, the figures of the benchmark ran by
// figures, and takes away those that no benchmark of all owns any more. The file is a
// JSON list of Figures by name; it is replaced as a whole, so a reader sees the old one
// or the new one.
func Merge(path string, all []Benchmark, ran Benchmark, figures []Figure) error {
	old, err := Load(path)
	if err != nil {
		return err
	}
	merged := slices.Clone(figures)
	for _, f := range old {
		owned := slices.ContainsFunc(all, func(b Benchmark) bool { return b.Owns(f.Name) })
		if owned && !ran.Owns(f.Name) {
			merged = append(merged, f)
		}
	}
	slices.SortFunc(merged, func(a, b Figure) int { return cmp.Compare(a.Name, b.Name) })

	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // goals have >= in them
	e.SetIndent("", "  ")
	if err := e.Encode(merged); err != nil {
		return fault.Wrap("bench.Merge", err)
	}
	if err := os.WriteFile(path+".new", text.Bytes(), 0o644); err != nil {
		return fault.Wrap("bench.Merge", err)
	}
	return fault.Wrap("bench.Merge", os.Rename(path+".new", path))
}

// Load reads a file of results; one that does not exist is empty.
func Load(path string) ([]Figure, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap("bench.Load", err)
	}
	var figures []Figure
	if err := json.Unmarshal(text, &figures); err != nil {
		return nil, fault.WithCure(fault.Errorf("bench.Load", fault.Corrupt, "%s is not a list of figures: %w", path, err),
			"remove it and run make bench")
	}
	return figures, nil
}

// Print writes figures as a table for people.
func Print(w io.Writer, figures []Figure) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	row("NAME", "VALUE", "UNIT", "BASELINE", "RATIO", "GOAL", "MET")
	for _, f := range figures {
		row(f.Name, number(&f.Value), f.Unit, number(f.Baseline), number(f.Ratio), cmp.Or(f.Goal, "-"), verdict(f.Met))
	}
	return fault.Wrap("bench.Print", t.Flush())
}

func number(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%g", *v)
}

func verdict(met *bool) string {
	switch {
	case met == nil:
		return "-"
	case *met:
		return "yes"
	}
	return "NO"
}
