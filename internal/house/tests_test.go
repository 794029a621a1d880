package house

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func testsDoNotSleep(f *file) (wrong []string) {
	if f.ast == nil || !f.isTest() {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if n != nil && f.calls(n, "time", "Sleep") {
			wrong = append(wrong, fmt.Sprintf("%d: a test sleeps: wait for what it waits for", f.line(n)))
		}
		return true
	})
	return wrong
}

// skippable matches the conditions under which a test may be skipped: no root, or a
// short run.
var skippable = regexp.MustCompile(`(?i)uid\(|root|testing\.Short\(\)`)

func skipsHaveReason(f *file) (wrong []string) {
	if f.ast == nil || !f.isTest() {
		return nil
	}
	var ifs []*ast.IfStmt
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt:
			ifs = append(ifs, n)
		case *ast.FuncDecl:
			if forBenchmark(f, n) {
				return false // proves nothing anyway
			}
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			return true
		}
		if len(call.Args) == 0 {
			wrong = append(wrong, fmt.Sprintf("%d: a skip without a reason", f.line(n)))
		}
		if !slices.ContainsFunc(ifs, func(s *ast.IfStmt) bool {
			return s.Body.Pos() <= n.Pos() && n.End() <= s.Body.End() && skippable.MatchString(f.source(s.Cond))
		}) {
			wrong = append(wrong, fmt.Sprintf("%d: a skip that is not for lack of root or in a short run", f.line(n)))
		}
		return true
	})
	return wrong
}

// forBenchmark reports whether the function takes a *testing.B.
func forBenchmark(f *file, d *ast.FuncDecl) bool {
	return slices.ContainsFunc(d.Type.Params.List, func(p *ast.Field) bool { return f.source(p.Type) == "*testing.B" })
}

func TestEveryFuzzTargetHasSeeds(t *testing.T) {
	corpus := map[string]bool{} // directories that hold a seed
	files := sources(t)
	for _, f := range files {
		corpus[f.dir()] = true
	}
	for _, f := range files {
		if f.ast == nil || !strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(d.Name.Name, "Fuzz") || d.Recv != nil {
				continue
			}
			if !addsSeeds(d) && !corpus[f.dir()+"/testdata/fuzz/"+d.Name.Name] {
				t.Errorf("%s:%d: %s has no seed: f.Add what a healthy encoder writes, or no execution gets past the first check",
					f.path, f.line(d), d.Name.Name)
			}
		}
	}
}

// addsSeeds reports whether the fuzz target calls Add on its parameter, or hands the
// parameter to a function that may.
func addsSeeds(d *ast.FuncDecl) bool {
	if d.Body == nil || len(d.Type.Params.List) != 1 || len(d.Type.Params.List[0].Names) != 1 {
		return false
	}
	f, found := d.Type.Params.List[0].Names[0].Name, false
	ast.Inspect(d.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == f && sel.Sel.Name == "Add" {
				found = true
			}
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok && id.Name == f {
				found = true
			}
		}
		return true
	})
	return found
}
