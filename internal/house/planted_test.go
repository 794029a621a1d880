package house

import (
	"slices"
	"strings"
	"testing"
)

// planted are files that break one rule, and files that come close and keep it. A rule
// that stops catching its offence is worse than none.
var planted = []struct {
	rule  string
	path  string
	text  string
	wrong bool
}{
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/coordinator"`, true},
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/pool"`, true},
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/host"`, false},
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/host/simdisk"`, true},
	{"imports point down", "internal/store/a_test.go", `import "github.com/holdfast-io/holdfast/internal/host/simdisk"`, false},
	{"imports point down", "internal/sim/a.go", `import "github.com/holdfast-io/holdfast/internal/host/simdisk"`, false},
	{"imports point down", "internal/block/a_test.go", `import "github.com/holdfast-io/holdfast/internal/host/simdisk"`, true},
	{"imports point down", "internal/host/simdisk/a.go", `import "github.com/holdfast-io/holdfast/internal/host"`, false},
	{"imports point down", "internal/host/simdisk/a.go", `import "github.com/holdfast-io/holdfast/internal/store"`, true},
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/bench"`, true},
	{"imports point down", "bench/a.go", `import "github.com/holdfast-io/holdfast/internal/bench"`, false},
	{"imports point down", "cmd/holdfast/a.go", `import "github.com/holdfast-io/holdfast/internal/cli"`, false},
	{"imports point down", "cmd/holdfast/a.go", `import "github.com/holdfast-io/holdfast/internal/host/simdisk"`, true},
	{"imports point down", "api/a.go", `import "github.com/holdfast-io/holdfast/internal/block"`, true},
	{"imports point down", "internal/store/a.go", `import "github.com/holdfast-io/holdfast/internal/util"`, true},
	{"imports point down", "internal/util/a.go", `import "github.com/holdfast-io/holdfast/internal/block"`, true},

	{"deciders are pure", "internal/coordinator/a.go", `import "time"; var t = time.Now()`, true},
	{"deciders are pure", "internal/coordinator/a.go", `import clock "time"; var t = clock.Now()`, true},
	{"deciders are pure", "internal/coordinator/a.go", `import "time"; var t time.Duration`, false},
	{"deciders are pure", "internal/coordinator/a.go", `import "sync/atomic"`, true},
	{"deciders are pure", "internal/coordinator/a.go", `import "net/netip"`, true},
	{"deciders are pure", "internal/coordinator/a.go", `func f(c chan int) {}`, true},
	{"deciders are pure", "internal/coordinator/a_test.go", `import "os"`, false},
	{"deciders are pure", "internal/store/a.go", `import "sync"`, false},

	{"goroutines have workers", "internal/store/a.go", `func f() { go f() }`, true},
	{"goroutines have workers", "internal/coordinator/a.go", `func f() { go f() }`, true},
	{"goroutines have workers", "internal/node/a.go", `func f() { go f() }`, false},
	{"goroutines have workers", "internal/host/a.go", `func f() { go f() }`, false},

	{"tests do not sleep", "internal/store/a_test.go", `import "time"; func f() { time.Sleep(1) }`, true},
	{"tests do not sleep", "internal/host/hosttest/a.go", `import "time"; func f() { time.Sleep(1) }`, true},
	{"tests do not sleep", "internal/store/a.go", `import "time"; func f() { time.Sleep(1) }`, false},

	{"skips have a reason", "internal/store/a_test.go", `func f(t *testing.T) { if os.Geteuid() != 0 { t.SkipNow() } }`, true},
	{"skips have a reason", "internal/store/a_test.go", `func f(t *testing.T) { t.Skip("flaky") }`, true},
	{"skips have a reason", "internal/store/a_test.go", `func f(t *testing.T) { if err != nil { t.Skipf("mount: %v", err) } }`, true},
	{"skips have a reason", "internal/store/a_test.go", `func f(t *testing.T) { if os.Geteuid() != 0 { t.Skip("mount needs root") } }`, false},

	{"skips have a reason", "internal/store/a_test.go", `func f(b *testing.B) { if err != nil { b.Skipf("no ring: %v", err) } }`, false},

	{"kinds decide", "internal/store/a.go", `import "strings"; func f(err error) bool { return strings.Contains(err.Error(), "no space") }`, true},
	{"kinds decide", "internal/store/a.go", `func f(err error) bool { return err.Error() == "no space" }`, true},
	{"kinds decide", "internal/store/a.go", `func f(err error) string { return err.Error() + "!" }`, false},
	{"kinds decide", "internal/store/a_test.go", `func f(err error) bool { return err.Error() == "no space" }`, false},

	{"exported names are documented", "internal/store/a.go", `func Open() {}`, true},
	{"exported names are documented", "internal/store/a.go", "// Open opens.\nfunc Open() {}", false},
	{"exported names are documented", "internal/store/a.go", `type T struct{}`, true},
	{"exported names are documented", "internal/store/a.go", "// T is.\ntype T struct{}", false},
	{"exported names are documented", "internal/store/a.go", "// Both.\ntype (\nT struct{}\nU struct{}\n)", true},
	{"exported names are documented", "internal/host/simdisk/a.go", `type T struct{}`, true},
	{"exported names are documented", "internal/store/a_test.go", `type T struct{}`, false},
	{"exported names are documented", "internal/store/a.go", `func (t *T[A]) Open() {}`, true},
	{"exported names are documented", "internal/store/a.go", `func (t t) Open() {}`, false},
	{"exported names are documented", "internal/store/a.go", `const A = 1`, true},
	{"exported names are documented", "internal/store/a.go", "// The letters.\nconst (\nA = 1\nB = 2\n)", false},

	{"few parameters", "internal/store/a.go", `func f(a, b, c, d, e, f, g int) {}`, true},
	{"few parameters", "internal/store/a.go", `func f(a, b, c, d, e, f int) {}`, false},

	{"files are short", "internal/store/a.go", strings.Repeat("\n", linesMax+1), true},
	{"files are short", "internal/store/a.go", strings.Repeat("\n", linesMax-1), false},
	{"files are short", "docs/a.md", strings.Repeat("\n", linesMax+1), false},

	{"no leftovers", "docs/a.md", "// TO" + "DO: the rest", true},
	{"no leftovers", "docs/a.md", "cd /wor" + "k/main", true},
	{"no leftovers", "docs/a.md", "cd ./wor" + "k/main; k8s.io/wor" + "k/queue", false},
	{"no leftovers", "Makefile", "GOPROXY=https://proxy.golang" + ".org", true},
}

func TestRulesCatchPlantedOffences(t *testing.T) {
	caught := map[string]bool{}
	for _, p := range planted {
		text := p.text
		if strings.HasSuffix(p.path, ".go") {
			text = "package a\n" + text
		}
		f, err := parse(p.path, []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", p.text, err)
		}
		i := slices.IndexFunc(rules, func(r rule) bool { return r.name == p.rule })
		if i < 0 {
			t.Fatalf("there is no rule %q", p.rule)
		}
		got := rules[i].check(f)
		if len(got) > 0 != p.wrong {
			t.Errorf("%s: %s: %.80q: got %q, want an offence: %v", p.rule, p.path, p.text, got, p.wrong)
		}
		if p.wrong {
			caught[p.rule] = true
		}
	}
	for _, r := range rules {
		if !caught[r.name] {
			t.Errorf("no offence is planted for the rule %q", r.name)
		}
	}
}
