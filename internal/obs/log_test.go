package obs

import (
	"encoding/json"
	"flag"
	"log/slog"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

var volume = block.VolumeID{0: 0x0d, 15: 0x4e}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestEveryLineOfAVolumeNamesVolumeEpochAndKind(t *testing.T) {
	var out strings.Builder
	log := ForVolume(Options{Format: JSON}.Logger(&out), volume, 7)
	log.Error("replica left behind", Err(fault.E("store.Flush", fault.Media, volume, nil)))

	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	want := map[string]any{
		"msg": "replica left behind", "level": "ERROR",
		"volume": volume.String(), "epoch": 7.0,
		"kind": "media error", "error": "store.Flush volume " + volume.String() + ": media error",
	}
	for k, v := range want {
		if line[k] != v {
			t.Errorf("%s = %v, want %v in %s", k, line[k], v, out.String())
		}
	}
}

func TestNilErrorAddsNothing(t *testing.T) {
	var out strings.Builder
	Options{}.Logger(&out).Info("done", Err(nil))
	if got := out.String(); !strings.HasSuffix(got, "level=INFO msg=done\n") {
		t.Errorf("got %q", got)
	}
}

func TestLevelHoldsBack(t *testing.T) {
	var out strings.Builder
	log := Options{Level: slog.LevelWarn}.Logger(&out)
	log.Info("quiet")
	log.Warn("loud")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "loud") {
		t.Errorf("got %q", got)
	}
}

func TestOptionsFromEnv(t *testing.T) {
	got, err := OptionsFromEnv(env(EnvLevel, "debug", EnvFormat, "json"))
	if want := (Options{Level: slog.LevelDebug, Format: JSON}); err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := OptionsFromEnv(env()); err != nil || got != (Options{}) {
		t.Errorf("empty environment: got %v, %v", got, err)
	}
	for _, name := range []string{EnvLevel, EnvFormat} {
		if _, err := OptionsFromEnv(env(name, "loud")); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=loud: got %v, want an Invalid that names it", name, err)
		}
	}
}

func TestOptionsAreFlags(t *testing.T) {
	var o Options
	fs := flag.NewFlagSet("holdfast", flag.ContinueOnError)
	fs.TextVar(&o.Level, "log-level", o.Level, "")
	fs.TextVar(&o.Format, "log-format", o.Format, "")
	if err := fs.Parse([]string{"-log-level=warn", "-log-format=json"}); err != nil {
		t.Fatal(err)
	}
	if want := (Options{Level: slog.LevelWarn, Format: JSON}); o != want {
		t.Errorf("got %v, want %v", o, want)
	}
}
