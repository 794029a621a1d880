package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
)

// Names of an orchestrator may be anything; a volume's or snapshot's name may not.
const (
	nameMax   = 128
	nameShown = 40 // of a name that can't be kept as it is
)

var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	nameForeign = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// nameFor returns the name that a volume or snapshot gets for the one that an orchestrator
// gives: the same, if it can be, else one that is like it, and the same each time.
func nameFor(given string) string {
	if len(given) <= nameMax && nameForm.MatchString(given) {
		return given
	}
	sum := sha256.Sum256([]byte(given))
	like := nameForeign.ReplaceAllString(given, "-")
	return "csi-" + like[:min(len(like), nameShown)] + "-" + hex.EncodeToString(sum[:8])
}
