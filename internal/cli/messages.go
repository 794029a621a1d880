package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// column is a column of a table of objects.
type column[T any] struct {
	head string
	wide bool // only with -o wide, and when one object is shown
	cell func(T) string
}

// printList prints objects: as rows, or as a list in JSON or YAML.
func printList[T proto.Message](o *output, list []T, columns []column[T]) error {
	switch o.format.String() {
	case "json", "yaml":
		return o.raw(list2any(list))
	}
	return o.print(nil, func(t *table) {
		rows(t, o.format == "wide", columns, true, list...)
	})
}

// rows draws objects, one in a row.
func rows[T any](t *table, wide bool, columns []column[T], heads bool, list ...T) {
	if heads {
		var cells []any
		for _, c := range columns {
			if wide || !c.wide {
				cells = append(cells, c.head)
			}
		}
		t.row(cells...)
	}
	for _, item := range list {
		var cells []any
		for _, c := range columns {
			if wide || !c.wide {
				cells = append(cells, cmp.Or(c.cell(item), "-"))
			}
		}
		t.row(cells...)
	}
}

// printOne prints one object: its columns as fields, and what more draws.
func printOne[T proto.Message](o *output, item T, columns []column[T], more func(*table)) error {
	switch o.format.String() {
	case "json", "yaml":
		return o.raw(item)
	}
	return o.print(nil, func(t *table) {
		for _, c := range columns {
			t.field(strings.ToLower(c.head), c.cell(item))
		}
		if more != nil {
			more(t)
		}
	})
}

// list2any makes messages ready for raw.
func list2any[T proto.Message](list []T) []proto.Message {
	all := make([]proto.Message, 0, len(list))
	for _, item := range list {
		all = append(all, item)
	}
	return all
}

// raw prints a message, or a list of messages, as JSON or YAML. protojson adds blanks at
// random so that nobody relies on its form; ours is stable.
func (o *output) raw(v any) error {
	text, err := marshal(v)
	if err == nil && o.format == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err == nil {
		_, err = o.w.Write(text)
	}
	return fault.Wrap("print", err)
}

func marshal(v any) ([]byte, error) {
	var raw []byte
	var err error
	switch v := v.(type) {
	case proto.Message:
		raw, err = protojson.Marshal(v)
	case []proto.Message:
		raw = []byte("[")
		for i, m := range v {
			one, e := protojson.Marshal(m)
			if err = cmpErr(err, e); i > 0 {
				raw = append(raw, ',')
			}
			raw = append(raw, one...)
		}
		raw = append(raw, ']')
	}
	if err != nil {
		return nil, err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "  "); err != nil {
		return nil, err
	}
	pretty.WriteByte('\n')
	return pretty.Bytes(), nil
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// conditions draws what is to be said of an object.
func conditions(t *table, list []*v1.Condition) {
	for _, c := range list {
		if c.Message != "" {
			t.field("why", c.Message)
		}
	}
}

// labelsText prints labels in order.
func labelsText(labels map[string]string) string {
	var all []string
	for _, key := range sortedKeys(labels) {
		all = append(all, key+"="+labels[key])
	}
	return strings.Join(all, ",")
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// enumText prints a value of an enumeration without its prefix.
func enumText(name, prefix string) string {
	text := strings.ToLower(strings.TrimPrefix(name, prefix))
	if text == "unspecified" {
		return ""
	}
	return strings.ReplaceAll(text, "_", "-")
}

// progressText prints how far something is.
func progressText(p *v1.Progress) string {
	if p.GetTotalBytes() <= 0 {
		return ""
	}
	text := percent(p.DoneBytes, p.TotalBytes)
	if p.Left != nil {
		text += ", " + p.Left.AsDuration().Round(time.Second).String() + " left"
	}
	return text
}
