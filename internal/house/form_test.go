package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
)

// kindsDecide finds an error's text being compared or searched.
func kindsDecide(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() {
		return nil
	}
	isText := func(e ast.Expr) bool {
		call, ok := e.(*ast.CallExpr)
		if !ok || len(call.Args) > 0 {
			return false
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		return ok && sel.Sel.Name == "Error"
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		found := false
		switch n := n.(type) {
		case *ast.BinaryExpr:
			found = (n.Op == token.EQL || n.Op == token.NEQ) && (isText(n.X) || isText(n.Y))
		case *ast.CallExpr:
			found = f.calls(n, "strings", "Contains", "HasPrefix", "HasSuffix", "EqualFold", "Index") && isText(n.Args[0])
		}
		if found {
			wrong = append(wrong, fmt.Sprintf("%d: an error's text decides: ask for its kind", f.line(n)))
		}
		return true
	})
	return wrong
}

const parametersMax = 6

func fewParameters(f *file) (wrong []string) {
	if f.ast == nil || f.isGenerated() {
		return nil
	}
	for _, decl := range f.ast.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Type.Params.NumFields() > parametersMax {
			wrong = append(wrong, fmt.Sprintf("%d: %s has %d parameters, more than %d: take a struct",
				f.line(d), d.Name.Name, d.Type.Params.NumFields(), parametersMax))
		}
	}
	return wrong
}

const linesMax = 900

var programs = regexp.MustCompile(`(\.(go|ts|tsx|css|sh)|^Makefile|^scripts/[^/]*)$`)

func filesAreShort(f *file) []string {
	if !programs.MatchString(f.path) || f.isGenerated() {
		return nil
	}
	if n := bytes.Count(f.text, []byte("\n")); n > linesMax {
		return []string{fmt.Sprintf("%d: the file has %d lines, more than %d", linesMax, n, linesMax)}
	}
	return nil
}

// leftovers match what may not be in any text file. They are written so that they do
// not match themselves.
var leftovers = []struct {
	what string
	re   *regexp.Regexp
}{
	{"unfinished work", regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)},
	{"a path of one machine", regexp.MustCompile(`(^|[^\w.*})])/(wor` + `k|tm` + `p|hom` + `e/\w+)/`)},
	{"a package registry's host", regexp.MustCompile(`(proxy|sum)\.golang` + `\.org|registry\.npmjs` + `\.org|deb\.debian` + `\.org`)},
	{"a merge conflict", regexp.MustCompile(`^(<<<<<<<|>>>>>>>) `)},
}

func noLeftovers(f *file) (wrong []string) {
	for i, line := range bytes.Split(f.text, []byte("\n")) {
		for _, l := range leftovers {
			if m := l.re.Find(line); m != nil {
				wrong = append(wrong, fmt.Sprintf("%d: %s: %q", i+1, l.what, m))
			}
		}
	}
	return wrong
}
