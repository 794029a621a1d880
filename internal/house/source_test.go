package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the prefix of every import path of ours.
const module = "github.com/holdfast-io/holdfast/"

// file is one file of the repository. The Go fields are nil for anything else.
type file struct {
	path string // slash-separated, from the repository's root
	text []byte
	fset *token.FileSet
	ast  *ast.File
}

// dir is the directory that the file is in, which for a Go file is its package.
func (f *file) dir() string { return filepath.ToSlash(filepath.Dir(f.path)) }

// isTest reports whether the file is compiled for tests only.
func (f *file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") || testOnly[f.dir()] != "" }

// isGenerated reports whether a program wrote the file.
func (f *file) isGenerated() bool { return f.ast != nil && ast.IsGenerated(f.ast) }

// line returns the line number of a node.
func (f *file) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// source returns the text of a node.
func (f *file) source(n ast.Node) string {
	return string(f.text[f.fset.Position(n.Pos()).Offset:f.fset.Position(n.End()).Offset])
}

// imports returns the name by which the file calls the imported package path, or "".
func (f *file) imports(path string) string {
	for _, spec := range f.ast.Imports {
		if strings.Trim(spec.Path.Value, `"`) != path {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path[strings.LastIndexByte(path, '/')+1:]
	}
	return ""
}

// calls reports whether n calls one of the named functions of the package path.
func (f *file) calls(n ast.Node, path string, names ...string) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == f.imports(path) && slices.Contains(names, sel.Sel.Name)
}

// parse makes a file of a text.
func parse(path string, text []byte) (*file, error) {
	f := &file{path: path, text: text}
	if !strings.HasSuffix(path, ".go") || strings.Contains(path, "/testdata/") {
		return f, nil
	}
	f.fset = token.NewFileSet()
	var err error
	f.ast, err = parser.ParseFile(f.fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	return f, err
}

// repository returns every text file of the repository, read once.
var repository = sync.OnceValues(func() ([]*file, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	var files []*file
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "run", "node_modules"}, d.Name()) && path != root {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || d.Name() == ".git" { // of a linked work tree
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.IndexByte(text[:min(len(text), 8192)], 0) >= 0 {
			return nil // not text
		}
		f, err := parse(rel, text)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	return files, err
})

// sources returns the repository's files.
func sources(t *testing.T) []*file {
	t.Helper()
	files, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d files: the rules are not looking at the repository", len(files))
	}
	return files
}
