package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// format is how results are printed; "" is table. It is a flag (pflag.Value).
type format string

// String returns the format's name.
func (f *format) String() string {
	if *f == "" {
		return "table"
	}
	return string(*f)
}

// Set takes a format by name.
func (f *format) Set(name string) error {
	switch name {
	case "table", "wide", "json", "yaml":
		*f = format(name)
		return nil
	}
	return fmt.Errorf("want table, wide, json or yaml")
}

// Type names what the flag takes, for help.
func (f *format) Type() string { return "format" }

// output prints results in the format that was asked for.
type output struct {
	w      io.Writer
	format format
}

// print prints v, which has json tags, or what draw draws of it when a table is wanted.
func (o *output) print(v any, draw func(*table)) error {
	var raw []byte
	var err error
	switch o.format.String() {
	case "json":
		raw, err = json.MarshalIndent(v, "", "  ")
		raw = append(raw, '\n')
	case "yaml":
		raw, err = yaml.Marshal(v)
	default:
		var text strings.Builder
		t := &table{tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)}
		draw(t)
		err = t.w.Flush()
		raw = []byte(text.String())
	}
	if err == nil {
		_, err = o.w.Write(raw)
	}
	return fault.Wrap("print", err)
}

// table is text in columns.
type table struct{ w *tabwriter.Writer }

// row adds a row of cells. An empty last cell leaves no blanks behind.
func (t *table) row(cells ...any) {
	var texts []string
	for _, c := range cells {
		texts = append(texts, fmt.Sprint(c))
	}
	fmt.Fprintln(t.w, strings.Join(texts, "\t"))
}

// field adds a name and its value, unless the value is empty.
func (t *table) field(name string, value any) {
	if text := fmt.Sprint(value); text != "" {
		t.row(name+":", text)
	}
}

// section begins a part of the table with columns of its own.
func (t *table) section() { fmt.Fprintln(t.w) }
