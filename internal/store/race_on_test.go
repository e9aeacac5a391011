//go:build race

package store

// raceDetector tells that the tests run under the race detector, which makes SQLite (C translated to Go) twenty times
// slower: what only takes more rows there is done with fewer.
const raceDetector = true
