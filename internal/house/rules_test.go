package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rule is something that every file of the repository must keep.
type rule struct {
	name   string
	reason string
	check  func(f *file) []string // what is wrong, as "line: what"
}

var rules = []rule{
	{"imports point down", "or one room becomes everyone's neighbour, and none can be tested alone", importsPointDown},
	{"deciders are pure", "the simulator runs them by seed: a clock, goroutine, lock, socket or file in one makes a seed worthless", decidersArePure},
	{"goroutines have workers", "a goroutine below the workers has no owner, no limit and no way to stop", goroutinesHaveWorkers},
	{"tests do not sleep", "a sleep is either too short, and the test fails by luck, or too long", testsDoNotSleep},
	{"skips have a reason", "as root nothing is skipped; a test that never runs proves nothing", skipsHaveReason},
	{"exported names are documented", "the doc comment is where units, errors and concurrency rules live", exportedDocumented},
	{"few parameters", "seven arguments in a row get swapped; a struct names them", fewParameters},
	{"files are short", "a long file hides a noun that deserves its own", filesAreShort},
	{"no leftovers", "work is done or not begun, and nobody else has our machine", noLeftovers},
}

func TestRules(t *testing.T) {
	files := sources(t)
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			for _, f := range files {
				for _, wrong := range r.check(f) {
					t.Errorf("%s:%s (%s)", f.path, wrong, r.reason)
				}
			}
		})
	}
}

func importsPointDown(f *file) (wrong []string) {
	if f.ast == nil {
		return nil
	}
	for _, spec := range f.ast.Imports {
		to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
		if !ours {
			continue
		}
		if why := mayImport(f.dir(), to, f.isTest()); why != "" {
			wrong = append(wrong, fmt.Sprintf("%d: %s", f.line(spec), why))
		}
	}
	return wrong
}

// impure are packages that a decider may not import, with all below them. time is not
// among them, for time.Duration; its clocks are caught as calls.
var impure = []string{"sync", "net", "os", "io/fs", "syscall", "golang.org/x/sys", "log", "math/rand", "crypto/rand",
	"context", "runtime", "unsafe", module + "internal/obs"}

func decidersArePure(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() || floorOf(f) != deciders {
		return nil
	}
	for _, spec := range f.ast.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		if slices.ContainsFunc(impure, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
			wrong = append(wrong, fmt.Sprintf("%d: a decider imports %s", f.line(spec), path))
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if n != nil && f.calls(n, "time", "Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker") {
			wrong = append(wrong, fmt.Sprintf("%d: a decider looks at the clock: take the time as a parameter", f.line(n)))
		}
		switch n.(type) {
		case *ast.ChanType, *ast.SelectStmt:
			wrong = append(wrong, fmt.Sprintf("%d: a decider waits on a channel: return an effect instead", f.line(n)))
		}
		return true
	})
	return wrong
}

// startsGoroutines are the rooms below the workers that may, with the reason.
var startsGoroutines = map[string]string{
	"host":  "blocking system calls need threads where the kernel has no ring",
	"state": "a watch is a stream",
}

func goroutinesHaveWorkers(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() || startsGoroutines[roomOf(f.dir())] != "" || floorOf(f) >= workers {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			wrong = append(wrong, fmt.Sprintf("%d: a goroutine starts here", f.line(n)))
		}
		return true
	})
	return wrong
}

// floorOf returns the floor of the file's room; outside the rooms, beside.
func floorOf(f *file) floor {
	if i := place(roomOf(f.dir())); i >= 0 {
		return rooms[i].floor
	}
	return beside
}

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

// mayBeFalse matches the conditions under which a test may be skipped: no root, or a
// short run.
var mayBeFalse = regexp.MustCompile(`(?i)uid\(|root|testing\.Short\(\)`)

func skipsHaveReason(f *file) (wrong []string) {
	if f.ast == nil || !f.isTest() {
		return nil
	}
	var ifs []*ast.IfStmt
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if s, ok := n.(*ast.IfStmt); ok {
			ifs = append(ifs, s)
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
			return s.Body.Pos() <= n.Pos() && n.End() <= s.Body.End() && mayBeFalse.MatchString(f.source(s.Cond))
		}) {
			wrong = append(wrong, fmt.Sprintf("%d: a skip that is not for lack of root or in a short run", f.line(n)))
		}
		return true
	})
	return wrong
}

// wellKnown are methods whose meaning is that of a standard interface.
var wellKnown = []string{"Len", "Less", "Swap", "Push", "Pop"}

func exportedDocumented(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() || f.isGenerated() || f.ast.Name.Name == "main" {
		return nil
	}
	missing := func(n ast.Node, name string) {
		wrong = append(wrong, fmt.Sprintf("%d: %s has no doc comment", f.line(n), name))
	}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && receiverExported(d) && d.Doc == nil && !slices.Contains(wellKnown, d.Name.Name) {
				missing(d, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || len(d.Specs) > 1) {
						missing(s, s.Name.Name)
					}
				case *ast.ValueSpec:
					// A group of constants may be explained once, above it.
					for _, name := range s.Names {
						if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
							missing(s, name.Name)
						}
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

// TestArchitectureIsTrue compares the rooms with the table in ARCHITECTURE.md: the same
// rooms, sentences and order, and a room is marked as existing exactly when it does.
func TestArchitectureIsTrue(t *testing.T) {
	var page string
	exists := map[string]bool{}
	for _, f := range sources(t) {
		if f.path == "ARCHITECTURE.md" {
			page = string(f.text)
		}
		if f.ast != nil && !strings.HasSuffix(f.path, "_test.go") {
			exists[roomOf(f.dir())] = true
		}
	}
	if page == "" {
		t.Fatal("there is no ARCHITECTURE.md")
	}
	at := 0
	for _, r := range rooms {
		today := "not yet"
		if exists[r.name] {
			today = "yes"
		}
		row := fmt.Sprintf("| %s | %s | %s | %s |", floorNames[r.floor], r.name, r.sentence, today)
		i := strings.Index(page[at:], row)
		if i < 0 {
			t.Errorf("ARCHITECTURE.md lacks, in this order, the row\n%s", row)
			continue
		}
		at += i + len(row)
	}
	if got := strings.Count(page, "| yes |") + strings.Count(page, "| not yet |"); got != len(rooms) {
		t.Errorf("ARCHITECTURE.md has %d rooms, the house has %d", got, len(rooms))
	}
}

func TestExceptionsAreUsed(t *testing.T) {
	used := map[[2]string]bool{}
	for _, f := range sources(t) {
		if f.ast == nil {
			continue
		}
		for _, spec := range f.ast.Imports {
			if to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module); ours {
				used[[2]string{f.dir(), to}] = true
			}
		}
	}
	for e := range exceptions {
		if !used[e] {
			t.Errorf("the exception %s -> %s is not used: take it away", e[0], e[1])
		}
	}
}
