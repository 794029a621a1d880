// Package selector chooses objects by their labels, in the words of Kubernetes:
//
//	app=db,tier!=test,gpu,!old,zone in (a,b),disk notin (hdd)
//
// Conditions are separated by commas, and all of them must hold. An empty selector holds
// for everything.
package selector

import (
	"fmt"
	"slices"
	"strings"
)

// Selector is a set of conditions on labels. The zero value holds for everything.
type Selector []condition

type condition struct {
	key    string
	not    bool
	values []string // nil: the label is there, whatever it is
}

// Parse reads a selector.
func Parse(text string) (Selector, error) {
	var s Selector
	for rest := strings.TrimSpace(text); rest != ""; {
		c, after, err := one(rest)
		if err != nil {
			return nil, fmt.Errorf("%w in the selector %q; write one such as app=db,tier!=test,zone in (a,b),!old", err, text)
		}
		s = append(s, c)
		if rest = strings.TrimSpace(after); rest == "" {
			break
		}
		if rest[0] != ',' {
			return nil, fmt.Errorf("a comma is missing before %q in the selector %q", rest, text)
		}
		if rest = strings.TrimSpace(rest[1:]); rest == "" {
			return nil, fmt.Errorf("a condition is missing after the last comma in the selector %q", text)
		}
	}
	return s, nil
}

// Matches reports whether labels meet all conditions.
func (s Selector) Matches(labels map[string]string) bool {
	for _, c := range s {
		value, there := labels[c.key]
		holds := there && (c.values == nil || slices.Contains(c.values, value))
		if holds == c.not {
			return false
		}
	}
	return true
}

// one reads a condition, and returns what stands behind it.
func one(text string) (c condition, rest string, err error) {
	if after, ok := strings.CutPrefix(text, "!"); ok && !strings.HasPrefix(after, "=") {
		c.not, text = true, strings.TrimSpace(after)
	}
	if c.key, rest = word(text); c.key == "" {
		return c, "", fmt.Errorf("a label's name is missing at %q", text)
	}
	rest = strings.TrimSpace(rest)
	if c.not || rest == "" || rest[0] == ',' {
		return c, rest, nil
	}
	for _, sign := range []string{"==", "!=", "="} {
		if after, ok := strings.CutPrefix(rest, sign); ok {
			value, rest := word(strings.TrimSpace(after))
			c.not, c.values = sign == "!=", []string{value}
			return c, rest, nil
		}
	}
	how, after := word(rest)
	if how != "in" && how != "notin" {
		return c, "", fmt.Errorf("%q is neither =, != , in nor notin", rest)
	}
	c.not = how == "notin"
	c.values, rest, err = set(strings.TrimSpace(after))
	return c, rest, err
}

// set reads (a,b).
func set(text string) (values []string, rest string, err error) {
	after, open := strings.CutPrefix(text, "(")
	inside, rest, closed := strings.Cut(after, ")")
	if !open || !closed {
		return nil, "", fmt.Errorf("%q is no set such as (a,b)", text)
	}
	for item := range strings.SplitSeq(inside, ",") {
		value, more := word(strings.TrimSpace(item))
		if strings.TrimSpace(more) != "" {
			return nil, "", fmt.Errorf("%q is no value", item)
		}
		values = append(values, value)
	}
	return values, rest, nil
}

// word reads letters, digits and what labels may hold besides.
func word(text string) (word, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./", r))
	})
	if end < 0 {
		return text, ""
	}
	return text[:end], text[end:]
}
