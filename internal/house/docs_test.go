package house

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// wellKnown are methods whose meaning is that of a standard interface.
var wellKnown = []string{"Len", "Less", "Swap", "Push", "Pop"}

func exportedDocumented(f *file) (wrong []string) {
	if f.ast == nil || strings.HasSuffix(f.path, "_test.go") || f.isGenerated() || f.ast.Name.Name == "main" {
		return nil
	}
	want := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if name.IsExported() && !slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d != nil }) {
			wrong = append(wrong, fmt.Sprintf("%d: %s has no doc comment", f.line(name), name.Name))
		}
	}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if receiverExported(d) && !slices.Contains(wellKnown, d.Name.Name) {
				want(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if !d.Lparen.IsValid() {
						s.Doc = d.Doc
					}
					want(s.Name, s.Doc)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						want(name, s.Doc, s.Comment, d.Doc) // a group may be explained once, above it
					}
				}
			}
		}
	}
	return wrong
}

// receiverExported reports whether d is a function, or a method of an exported type.
func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return true
		}
	}
}

func TestEveryPackageSaysWhatItPromises(t *testing.T) {
	docs := map[string]string{}
	for _, f := range sources(t) {
		if f.ast == nil || strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		if _, seen := docs[f.dir()]; !seen {
			docs[f.dir()] = ""
		}
		if f.ast.Doc != nil {
			if other := docs[f.dir()]; other != "" {
				t.Errorf("%s: the package doc is in %s already: one place, or it will say two things", f.path, other)
			}
			docs[f.dir()] = f.path
		}
	}
	for dir, doc := range docs {
		if doc == "" {
			t.Errorf("%s: no file has a package doc: say what the package promises", dir)
		}
	}
}

// TestFailuresPageIsTrue compares the table of kinds in docs/failures.md with the kinds: scripts
// rely on it.
func TestFailuresPageIsTrue(t *testing.T) {
	var page string
	for _, f := range sources(t) {
		if f.path == "docs/failures.md" {
			_, page, _ = strings.Cut(string(f.text), "\n## Kinds\n")
		}
	}
	kinds := 0
	for k := fault.Unknown; k == fault.Unknown || k.String() != fault.Unknown.String(); k++ {
		row := fmt.Sprintf("\n| %s | %d | %s |", k, k.ExitCode(), unix.ErrnoName(k.Errno()))
		if strings.Count(page, row) != 1 {
			t.Errorf("docs/failures.md lacks a row that begins%s", row)
		}
		kinds++
	}
	if got := strings.Count(page, "\n| ") - 1; got != kinds {
		t.Errorf("docs/failures.md has %d kinds, package fault has %d", got, kinds)
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	decisionName = regexp.MustCompile(`docs/decisions/(\d{4})`)
)

// TestReferencesLeadSomewhere follows the links between pages, and the decisions that
// code names.
func TestReferencesLeadSomewhere(t *testing.T) {
	exists, decided := map[string]bool{".": true}, map[string]bool{}
	files := sources(t)
	for _, f := range files {
		for dir := f.path; dir != "."; dir = path.Dir(dir) {
			exists[dir] = true
		}
		if name, ok := strings.CutPrefix(f.path, "docs/decisions/"); ok {
			number, _, _ := strings.Cut(name, "-")
			if decided[number] {
				t.Errorf("%s: there is a decision %s already: take the next free number", f.path, number)
			}
			decided[number] = true
		}
	}
	for _, f := range files {
		if strings.HasSuffix(f.path, ".md") {
			for _, m := range markdownLink.FindAllSubmatch(f.text, -1) {
				if to := path.Join(path.Dir(f.path), string(m[1])); !exists[to] {
					t.Errorf("%s: the link to %s leads nowhere", f.path, m[1])
				}
			}
		}
		for _, m := range decisionName.FindAllSubmatch(f.text, -1) {
			if !decided[string(m[1])] {
				t.Errorf("%s: there is no decision %s", f.path, m[1])
			}
		}
	}
}
