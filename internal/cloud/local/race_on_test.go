//go:build race

package local

// raceDetector tells that the tests run under the race detector, which needs many times the memory.
const raceDetector = true
