package host

import "testing"

func TestBootIsTheSameUntilTheNext(t *testing.T) {
	if a, b := Boot(), Boot(); a == 0 || a != b {
		t.Errorf("this boot is %x, then %x", a, b)
	}
	if a, b := parseBoot("0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e\n"), parseBoot("0d9f3c6e-52a1-4c5f-8d8a-6a8f3b1c2d4e\n"); a != 0x0d9f3c6e52a14c5e || a == b {
		t.Errorf("boots are %x and %x", a, b)
	}
	for _, text := range []string{"", "none", "0d9f"} {
		if got := parseBoot(text); got != 0 {
			t.Errorf("%q is boot %x", text, got)
		}
	}
}
