package selector_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/spec/selector"
)

func TestSelectorsChooseAsKubernetesDoes(t *testing.T) {
	labels := map[string]string{"app": "db", "tier": "1", "empty": "", "x.io/zone": "a"}
	for text, want := range map[string]bool{
		"": true, " ": true, "app": true, "!app": false, "gone": false, "!gone": true, "app=db": true, "app==db": true,
		"app = db , tier=1": true, "app=web": false, "app!=web": true, "gone!=x": true, "app!=db": false, "empty=": true,
		"app in (web, db)": true, "app notin (web,db)": false, "gone notin (a)": true, "gone in (a)": false,
		"x.io/zone in (a),tier": true, "tier,app=web": false, "! gone": true,
	} {
		s, err := selector.Parse(text)
		if err != nil || s.Matches(labels) != want {
			t.Errorf("%q: %v, %v", text, !want, err)
		}
	}
	for _, text := range []string{",", "a,", "=b", "a b", "a in", "a in (b", "a in b", "a in (b c)", "a ~ b", "a=b c=d", "!", "a>b"} {
		if s, err := selector.Parse(text); err == nil {
			t.Errorf("%q was taken as %v", text, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"app=db,tier!=test", "a in (b,c),!d", "x notin (", "a,,b", "!=x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := selector.Parse(text); err == nil {
			s.Matches(map[string]string{"app": "db"})
		}
	})
}
