package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// everyCommand visits all commands of ours.
func everyCommand(visit func(*cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		visit(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}))
}

func TestEveryCommandExplainsItself(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		if c.Short == "" || c.Long == "" {
			t.Errorf("%s has no Short or no Long", c.CommandPath())
		}
		if c.Runnable() && !c.HasSubCommands() && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s has no example of itself", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 81 {
				t.Errorf("%s: a line of Long has %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
	})
}

func TestEveryExampleNamesCommandsAndFlagsThatExist(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "holdfast" {
				continue
			}
			found, rest, err := c.Root().Find(words[1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil || found != c {
				t.Errorf("%q of %s is no command of it: %v", line, c.CommandPath(), err)
			}
		}
	})
}

func TestExitCodesTopicIsWhatKindsExitWith(t *testing.T) {
	text := succeed(t, "help", "exit-codes")
	listed := map[string]string{}
	status := ""
	for line := range strings.Lines(text) {
		if m := regexp.MustCompile(`^  ([0-9 ]) {7}(.{0,36})`).FindStringSubmatch(line); m != nil {
			if m[1] != " " {
				status = m[1]
			}
			for kind := range strings.SplitSeq(m[2], ",") {
				if kind = strings.TrimSpace(kind); kind != "" {
					listed[kind] = status
				}
			}
		}
	}
	for kind := fault.Kind(0); kind == fault.Unknown || kind.String() != fault.Unknown.String(); kind++ {
		if want := fmt.Sprint(kind.ExitCode()); listed[kind.String()] != want {
			t.Errorf("kind %q exits with %s; the topic says %q", kind, want, listed[kind.String()])
		}
	}
}

func TestWrongArgumentsExitWithTwoAndPointToHelp(t *testing.T) {
	for _, c := range []struct {
		args  string
		texts []string
	}{
		{"frobnicate", []string{`no command "holdfast frobnicate"`, "holdfast --help"}},
		{"pool creat x", []string{"did you mean create", "holdfast pool --help"}},
		{"pool create", []string{"want PATH", "holdfast pool create --help"}},
		{"pool create a b", []string{"want PATH"}},
		{"pool create a --size nine", []string{"--size", "20Gi"}},
		{"pool create a --colour red", []string{"--colour"}},
		{"pool create a --image --directory", []string{"image", "directory"}},
		{"pool create a --cluster x", []string{"--cluster", "not an id"}},
		{"pool wipe a --pool x", []string{"--pool", "not an id"}},
		{"pool set a", []string{"--reserve or --class"}},
		{"version -o xml", []string{"table, wide, json or yaml"}},
	} {
		fail(t, 2, append(c.texts, "  cure: see holdfast"), strings.Fields(c.args)...)
	}
}

func TestGroupsAlonePrintTheirHelp(t *testing.T) {
	says(t, succeed(t), "Usage:", "pool", "version", "exit-codes")
	says(t, succeed(t, "pool"), "Usage:", "create", "remount", "wipe")
}

func TestVersionInEveryFormat(t *testing.T) {
	says(t, succeed(t, "version"), "version:", "platform:", "linux/")
	var asJSON, asYAML version
	if err := json.Unmarshal([]byte(succeed(t, "version", "-o", "json")), &asJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(succeed(t, "-o", "yaml", "version")), &asYAML); err != nil {
		t.Fatal(err)
	}
	if asJSON != asYAML || asJSON.Go == "" {
		t.Errorf("JSON says %+v, YAML %+v", asJSON, asYAML)
	}
}

func TestBytesArePrintedForPeople(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 300 << 20: "300 MiB", 20 << 30: "20.0 GiB", 1<<50 + 1<<49: "1.5 PiB",
	} {
		if got := bytesText(bytes); got != want {
			t.Errorf("%d is %q, want %q", bytes, got, want)
		}
	}
}
