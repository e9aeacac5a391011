//go:build race

package e2e

// raceFlag builds the programs with the race detector when the tests have it.
var raceFlag = []string{"-race"}
