//go:build !planted

package fault

// Planted reports whether a bug is planted under the name: never, but in a build with
// the tag planted, with which the simulator is tested.
func Planted(string) bool { return false }
