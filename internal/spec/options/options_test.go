package options_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

func TestInlineNameSaysEverything(t *testing.T) {
	got, inline, err := options.Inline("name=db,size=10G,repl=3,io_priority=high,nodes=n1;n2,zones=a;b,group=web," +
		"group_policy=anti-affinity,snap_policy=nightly;hourly,iops=500,write_bandwidth=100MiB,nodiscard=true,fs=xfs,label=app:db;tier:1")
	if err != nil || !inline {
		t.Fatal(inline, err)
	}
	want := &holdfastv1.CreateVolumeRequest{
		Name:   "db",
		Labels: map[string]string{"app": "db", "tier": "1"},
		Spec: &holdfastv1.VolumeSpec{
			SizeBytes: 10_000_003_072, Replicas: 3, Class: "high", Filesystem: "xfs", NoDiscard: true,
			Placement:        &holdfastv1.Placement{Nodes: []string{"n1", "n2"}, Zones: []string{"a", "b"}, Group: "web", GroupPolicy: "anti-affinity"},
			SnapshotPolicies: []string{"nightly", "hourly"},
			Limits:           &holdfastv1.Limits{ReadIops: 500, WriteIops: 500, WriteBytesPerSecond: 100 << 20},
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestPlainNamesAreNotInline(t *testing.T) {
	if r, inline, err := options.Inline("db-1"); r != nil || inline || err != nil {
		t.Error(r, inline, err)
	}
}

func TestEveryExampleIsTaken(t *testing.T) {
	for _, o := range options.All() {
		for _, key := range append([]string{o.Key}, o.Aliases...) {
			for value := range strings.SplitSeq(o.Value, "|") {
				r, err := options.Parse(map[string]string{key: value})
				if err != nil {
					t.Errorf("%s=%s: %v", key, value, err)
				} else if proto.Equal(r, &holdfastv1.CreateVolumeRequest{Spec: &holdfastv1.VolumeSpec{}}) && value != "false" {
					t.Errorf("%s=%s changes nothing", key, value)
				}
			}
		}
		if o.Help == "" || !strings.Contains(options.Table(), o.Help) {
			t.Errorf("%s is not explained", o.Key)
		}
	}
}

func TestWhatIsNotKnownIsRefusedWithWhatWasMeant(t *testing.T) {
	for _, c := range []struct{ key, value, what, cure string }{
		{"rep", "2", "rep: there is no such option", "did you mean repl?"},
		{"Repl", "2", "no such option", "did you mean repl?"},
		{"io-priority", "high", "no such option", "did you mean io_priority?"},
		{"replicaz", "2", "no such option", "did you mean replicas?"},
		{"frobnicate", "yes", "no such option", "the options are name, size"},
		{"sharedv4", "true", "one node at a time", "leave it out"},
		{"aggregation_level", "2", "striped", "leave it out"},
		{"repl", "0", "from 1 to 7", "write repl=2"},
		{"repl", "two", "from 1 to 7", "write repl=2"},
		{"size", "10", "less than 1 MiB; a bare number is bytes", "write size=10Gi"},
		{"size", "much", "number of bytes", "write size=10Gi"},
		{"size", "4096Pi", "more than any volume", "write size=10Gi"},
		{"fs", "ntfs", "ext4, xfs, none", "write fs=ext4|xfs|none"},
		{"nodes", " , ", "it is empty", "write nodes=n1,n2"},
		{"nodes", "a b", "not one name", "write nodes=n1,n2"},
		{"labels", "app", "no key=value", "write labels=app=db,tier=1"},
		{"nodiscard", "perhaps", "neither true nor false", "write nodiscard=true|false"},
		{"sector", "1024", "none of 4096, 512", "write sector=4096|512"},
		{"iops", "-1", "from 1 to", "write iops=1000"},
		{"bandwidth", "1", "4 KiB", "write bandwidth=100MiB"},
	} {
		_, err := options.Parse(map[string]string{c.key: c.value})
		what, cure := fault.Describe(err)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(what, c.what) || !strings.HasPrefix(cure, c.cure) || !strings.Contains(what, c.key) {
			t.Errorf("%s=%s: %q, cure %q; want %q, %q", c.key, c.value, what, cure, c.what, c.cure)
		}
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	for _, params := range []map[string]string{
		{"repl": "2", "replicas": "2"},
		{"iops": "100", "read_iops": "200"},
		{"snapshot": "a", "source": "b"},
	} {
		if _, err := options.Parse(params); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", params, err)
		}
	}
	if _, _, err := options.Inline("name=a,name=b"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if _, _, err := options.Inline("size=1Gi"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func FuzzInline(f *testing.F) {
	for _, seed := range []string{"name=db,size=10G,repl=3", "name=a,labels=x:y;z=1,nodes=n1;n2", "=,=", "size", "name=db,io_throttle_rd_bw=1000000000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, inline, err := options.Inline(text)
		switch {
		case err != nil:
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v is of kind %v", text, err, fault.KindOf(err))
			}
		case inline:
			s := r.GetSpec()
			if r.Name == "" || s.SizeBytes < 0 || s.SizeBytes%4096 != 0 || s.Replicas < 0 || s.GetLimits().GetReadBytesPerSecond() < 0 {
				t.Errorf("%q gave %v", text, r)
			}
		}
	})
}
