package cli

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write testdata/store-help.txt anew")

// What people and scripts can say to holdfast store, on one page: a change is seen.
func TestHelpOfStoreIsAsItWas(t *testing.T) {
	const golden = "testdata/store-help.txt"
	var page strings.Builder
	everyCommand(func(c *cobra.Command) {
		if words := strings.Fields(c.CommandPath())[1:]; len(words) > 0 && words[0] == "store" {
			page.WriteString("$ " + c.CommandPath() + " --help\n" + succeed(t, append(words, "--help")...) + "\n")
		}
	})
	if *update {
		if err := os.WriteFile(golden, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if page.String() != string(want) {
		t.Errorf("the help differs from %s; if that is meant, run: go test ./internal/cli -run HelpOfStore -update", golden)
	}
}
