package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server"
)

// loaded loads a config from flags, an environment, and the text of a file.
func loaded(t *testing.T, flags []string, env map[string]string, text string) (Config, error) {
	t.Helper()
	var c Config
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.Flags(f)
	if err := f.Parse(flags); err != nil {
		t.Fatal(err)
	}
	file := ""
	if text != "" {
		file = filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c, Load(f, func(name string) string { return env[name] }, file)
}

func TestFlagsComeBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	text := `
name: file
zone: file
rack: file
api-port: 1234
pool: [/a, /b]
label: {disk: nvme, room: 4}
no-etcd-member: true
replace-member-after: 90s
`
	env := map[string]string{"HOLDFAST_ZONE": "env", "HOLDFAST_RACK": "env", "HOLDFAST_CERTIFICATE_NAMES": "x,y",
		"HOLDFAST_ADDRESS": "the API's", "HOLDFAST_TOKEN": "the API's", "HOLDFAST_JOIN_TOKEN": "to join"}
	c, err := loaded(t, []string{"--rack", "flag"}, env, text)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.Name, c.Zone, c.Rack, c.APIPort, c.Pools, c.Labels, c.NoMember, c.ReplaceMemberAfter, c.Names, c.DataPort, c.Address, c.Token}
	want := []any{"file", "env", "flag", 1234, []string{"/a", "/b"}, map[string]string{"disk": "nvme", "room": "4"}, true,
		90 * time.Second, []string{"x", "y"}, 7401, "", "to join"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

func TestAWrongSettingIsNamed(t *testing.T) {
	for _, text := range []string{"nmae: x", "api-port: many", "- a", "\t"} {
		if _, err := loaded(t, nil, nil, text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := loaded(t, nil, map[string]string{"HOLDFAST_DUMP_EVERY": "often"}, ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("a wrong variable: %v", err)
	}
}

// TestAMachineOfAnyNameCanBeANode: what was taken for a name and could not be one was found
// out by the cluster only, again and again.
func TestAMachineOfAnyNameCanBeANode(t *testing.T) {
	for host, want := range map[string]string{"(none)": "node", "": "node", "DB-1.Example.com": "db-1.example.com", "_build_7": "build_7",
		"ex\u00e4mple": "ex-mple", "...": "node", strings.Repeat("x", 200): "node", "0123456789abcdef0123456789abcdef": "0123456789abcdef0123456789abcdef"} {
		if got := nameFrom(host); got != want || server.CheckName(got) != nil {
			t.Errorf("%q becomes %q, want %q", host, got, want)
		}
	}
	c, err := loaded(t, []string{"--name", "(none)", "--address", "127.0.0.1"}, nil, "")
	if err == nil {
		err = c.Complete()
	}
	if _, cure := fault.Describe(err); !fault.Is(err, fault.Invalid) || cure == "" {
		t.Errorf("a name that can't be: %v", err)
	}
}

// TestOtherProcessesReadTheConfigAsItIs saves a config with everything set, and loads it.
func TestOtherProcessesReadTheConfigAsItIs(t *testing.T) {
	c, err := loaded(t, []string{"--name", "n1", "--pool", "/a b,/c", "--label", "a=1,b=2", "--address", "127.0.0.1", "--run-dir", t.TempDir(),
		"--etcd-endpoints", "https://a:1,https://b:1", "--join", "x", "--token", "secret", "--dump-every", "0s", "--no-etcd-member"}, nil, "")
	if err == nil {
		err = c.Complete()
	}
	if err == nil {
		err = c.save()
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(c.childConfig())
	if err != nil {
		t.Fatal(err)
	}
	got, err := loaded(t, nil, nil, string(raw))
	if err != nil {
		t.Fatal(err)
	}
	c.Join, c.Token = "", "" // a secret that they have no use for
	if c.Names == nil {
		got.Names = nil
	}
	if !reflect.DeepEqual(got, c) {
		t.Errorf("%+v\nwant %+v", got, c)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "20Gi": 20 << 30, "3Ti": 3 << 40, "512Mi": 512 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "Gi", "-1", "0", "1G", "1.5Gi", "9999999999999Ti"} {
		if got, err := parseSize(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
}
