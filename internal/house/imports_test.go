package house

import (
	"fmt"
	"strings"
	"testing"
)

// place returns the room's position in the table, or -1.
func place(name string) int {
	for i, r := range rooms {
		if r.name == name {
			return i
		}
	}
	return -1
}

// roomOf returns the room that the package directory dir is in; "" outside internal.
func roomOf(dir string) string {
	rest, ok := strings.CutPrefix(dir, "internal/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// mayImport returns why the package directory from may not import the package
// directory to of this module, or "". test says that the importing file is a test.
func mayImport(from, to string, test bool) string {
	if from == to || roomOf(to) == "" {
		return ""
	}
	if exceptions[[2]string{from, to}] != "" {
		return ""
	}
	src, dst := place(roomOf(from)), place(roomOf(to))
	if dst < 0 {
		return fmt.Sprintf("%s is not a room: give it a line and a sentence in rooms_test.go and ARCHITECTURE.md", roomOf(to))
	}
	outside := roomOf(from) == ""
	besideHouse := outside && from != "cmd/holdfast" || src >= 0 && rooms[src].floor == beside
	if why := testOnly[to]; why != "" && !test && !besideHouse && testOnly[from] == "" {
		return fmt.Sprintf("%s is for tests: %s", to, why)
	}
	if rooms[dst].floor == beside && !(from == "bench" && rooms[dst].name == "bench") && src != dst {
		return fmt.Sprintf("%s is beside the house: nobody imports it", rooms[dst].name)
	}
	switch {
	case from == "api" || strings.HasPrefix(from, "api/"):
		return "api is the public door: programs outside this module import it, so it can't lean on a room"
	case outside || src == dst || dst < src:
		return ""
	case src < 0:
		return fmt.Sprintf("%s is not a room: give it a line and a sentence in rooms_test.go and ARCHITECTURE.md", roomOf(from))
	}
	return fmt.Sprintf("%s (%s) may not import %s (%s): imports point down, or to an earlier room of the same floor; "+
		"let %[1]s declare the interface it needs, or let a worker carry the effect",
		rooms[src].name, floorNames[rooms[src].floor], rooms[dst].name, floorNames[rooms[dst].floor])
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
