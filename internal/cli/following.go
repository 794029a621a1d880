package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func percent(part, whole int64) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %%", min(100, part*100/whole))
}

// collect reads all pages of a list.
func collect[T any](get func(token string) (page []T, next string, err error)) (all []T, err error) {
	for token := ""; ; {
		page, next, err := get(token)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if token = next; token == "" {
			return all, nil
		}
	}
}

// pageMax is how much the server gives in one page.
const pageMax = 1000

// collectMost reads pages of a list until it has so many.
func collectMost[T any](most int, get func(token string, size int32) (page []T, next string, err error)) ([]T, error) {
	if most <= 0 {
		return nil, fmt.Errorf("--limit %d: want a number above 0", most)
	}
	return collect(func(token string) ([]T, string, error) {
		page, next, err := get(token, int32(min(most, pageMax)))
		if most -= len(page); most <= 0 {
			next = ""
		}
		return page, next, err
	})
}

// limitFlag adds --limit.
func limitFlag(cmd *cobra.Command, most *int) {
	cmd.Flags().IntVar(most, "limit", 100, "at most so `many`, the newest")
}

// watchFlag adds --watch.
func watchFlag(cmd *cobra.Command, watch *bool) {
	cmd.Flags().BoolVarP(watch, "watch", "w", false, "go on printing what changes, until interrupted")
}

// follow prints what a watch tells, a row each: what there is, then what changes. In JSON
// it is an object in a line, in YAML a document each. An object that went is marked.
func follow[M any, T proto.Message](o *output, stream *connect.ServerStreamForClient[M], read func(*M) (v1.Change, T), columns []column[T]) error {
	first := true
	for stream.Receive() {
		change, item := read(stream.Msg())
		var list []T
		if change != v1.Change_CHANGE_SYNCED { // that was all that there is
			list = []T{item}
		}
		if err := followed(o, change, list, columns, first); err != nil {
			return err
		}
		first = false
	}
	err := stream.Err()
	if connect.CodeOf(err) == connect.CodeCanceled {
		return nil // interrupted, as it has to be
	}
	return err
}

// followed prints one thing that a watch told, or none; a table has its heads first, so
// that who watches an empty list sees that it is watched.
func followed[T proto.Message](o *output, change v1.Change, list []T, columns []column[T], first bool) error {
	var text strings.Builder
	switch format := o.format.String(); {
	case (format == "json" || format == "yaml") && len(list) == 0:
		return nil
	case format == "json":
		raw, err := protojson.Marshal(list[0])
		if err != nil {
			return fault.Wrap("print", err)
		}
		fmt.Fprintf(&text, "{\"change\":%q,\"object\":%s}\n", changeText(change), raw)
	case format == "yaml":
		text.WriteString("---\n")
		if _, err := o.w.Write([]byte(text.String())); err != nil {
			return fault.Wrap("print", err)
		}
		return o.raw(list[0])
	default:
		t := &table{tabwriter.NewWriter(&text, 12, 0, 2, ' ', 0)}
		marked := append([]column[T]{{head: "CHANGE", cell: func(T) string { return changeText(change) }}}, columns...)
		rows(t, o.format == "wide", marked, first, list...)
		if err := t.w.Flush(); err != nil {
			return fault.Wrap("print", err)
		}
	}
	_, err := o.w.Write([]byte(text.String()))
	return fault.Wrap("print", err)
}

func changeText(c v1.Change) string { return enumText(c.String(), "CHANGE_") }
