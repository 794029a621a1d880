//go:build planted

package fault

// PlantedBug is the bug that Planted reports.
var PlantedBug string

// Planted reports whether a bug is planted under the name.
func Planted(name string) bool { return PlantedBug == name }
