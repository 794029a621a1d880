package rpc_test

import (
	"os"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
)

// TestPageOfTheAPIIsTrue compares the table of docs/api.md with the codes.
func TestPageOfTheAPIIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind := fault.Unknown; kind <= fault.Internal; kind++ {
		found := false
		for line := range strings.Lines(string(page)) {
			cells := strings.Split(line, "|")
			found = found || len(cells) > 2 && strings.Contains(cells[1], "`"+rpc.Code(kind).String()+"`") && strings.Contains(cells[2], kind.String())
		}
		if !found {
			t.Errorf("docs/api.md has no row with %v for %q", rpc.Code(kind), kind)
		}
	}
}
