// Package options reads what users say about a volume in words, as key and value: the
// parameters of a StorageClass, Docker's --opt, a volume's inline name, and the CLI's
// --opt. One parser, so that a specification can be copied between them.
//
// A key or a value that isn't known is refused, with what was probably meant; nothing is
// ever ignored in silence.
package options

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Option is one key that is understood.
type Option struct {
	Key     string
	Aliases []string // other spellings, which users know from elsewhere
	Value   string   // what it takes, as an example or a choice
	Help    string   // a sentence

	set func(r *holdfastv1.CreateVolumeRequest, value string) error
}

// All returns the options, in the order in which to explain them.
func All() []Option { return slices.Clone(all) }

// Parse makes a request of keys and values. What is not named stays empty: the server
// gives it the cluster's default. Errors are fault.Invalid, and name the key.
func Parse(params map[string]string) (*holdfastv1.CreateVolumeRequest, error) {
	r := &holdfastv1.CreateVolumeRequest{Spec: &holdfastv1.VolumeSpec{}}
	said := map[string]string{} // by the option's own key, as whom
	for _, key := range slices.Sorted(maps.Keys(params)) {
		o, err := find(key)
		if err != nil {
			return nil, err
		}
		if other := said[o.Key]; other != "" {
			return nil, refuse(key, "say it once", "it says the same as %s", other)
		}
		said[o.Key] = key
		if err := o.set(r, strings.TrimSpace(params[key])); err != nil {
			return nil, refuse(key, "write "+o.Key+"="+o.Value, "%w", err)
		}
	}
	if r.SourceSnapshot != "" && r.SourceVolume != "" {
		return nil, refuse("snapshot", "name one of them", "a volume can't begin with a snapshot and with a volume")
	}
	return r, nil
}

// Inline reads a specification that is one text, such as name=db,size=10G,repl=3. Lists
// within it are separated by semicolons. inline is false for a text that is a plain name.
func Inline(text string) (r *holdfastv1.CreateVolumeRequest, inline bool, err error) {
	if !strings.Contains(text, "=") {
		return nil, false, nil
	}
	params, err := Split(strings.Split(text, ","))
	if err != nil {
		return nil, true, err
	}
	r, err = Parse(params)
	if err == nil && r.Name == "" {
		err = refuse("name", "add name=…", "it is missing in %q", text)
	}
	return r, true, err
}

// Split makes keys and values of texts such as repl=3.
func Split(pairs []string) (map[string]string, error) {
	params := map[string]string{}
	for _, pair := range pairs {
		key, value, found := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !found || key == "" {
			return nil, fault.WithCure(fault.Errorf("options", fault.Invalid, "%q is no key=value", pair), "write it as repl=3")
		}
		if _, twice := params[key]; twice {
			return nil, refuse(key, "say it once", "it is there twice")
		}
		params[key] = value
	}
	return params, nil
}

// refuse makes an error about a key.
func refuse(key, cure, format string, args ...any) error {
	return fault.WithCure(fault.Errorf("options", fault.Invalid, key+": "+format, args...), cure)
}

// find returns the option that a key means.
func find(key string) (Option, error) {
	for _, o := range all {
		if key == o.Key || slices.Contains(o.Aliases, key) {
			return o, nil
		}
	}
	if why := foreign[key]; why != "" {
		return Option{}, refuse(key, "leave it out", "Holdfast has no such option: %s", why)
	}
	if best := nearest(key); best != "" {
		return Option{}, refuse(key, "did you mean "+best+"?", "there is no such option")
	}
	return Option{}, refuse(key, "the options are "+strings.Join(keys(), ", "), "there is no such option")
}

func keys() (names []string) {
	for _, o := range all {
		names = append(names, o.Key)
	}
	return names
}

// nearest returns the key, in its own spelling, that is most like text, or "".
func nearest(text string) string {
	best, distance := "", 1+max(1, len(text)/3)
	for _, o := range all {
		for _, name := range append([]string{o.Key}, o.Aliases...) {
			if d := edits(strings.ToLower(strings.ReplaceAll(text, "-", "_")), name); d < distance {
				best, distance = name, d
			}
		}
	}
	return best
}

// edits counts the letters that must be added, removed or replaced to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Table prints the options for people, as text in two columns.
func Table() string {
	var b strings.Builder
	for _, o := range all {
		fmt.Fprintf(&b, "  %s=%s\n      %s\n", o.Key, o.Value, o.Help)
		if len(o.Aliases) > 0 {
			fmt.Fprintf(&b, "      (also %s)\n", strings.Join(o.Aliases, ", "))
		}
	}
	return b.String()
}
