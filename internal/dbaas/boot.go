package dbaas

import (
	"strconv"
	"strings"
)

// BootID names one start of an agent: the number that the agent counts its starts with, and what makes the name unique
// where a counter was lost with its disk.
func BootID(number int64, unique string) string {
	return strconv.FormatInt(number, 10) + "." + unique
}

// BootedBefore tells whether boot is known to be an earlier start than other, of the same agent.
func BootedBefore(boot, other string) bool {
	b, ok := bootNumber(boot)
	o, also := bootNumber(other)
	return ok && also && b < o
}

func bootNumber(id string) (int64, bool) {
	number, _, numbered := strings.Cut(id, ".")
	n, err := strconv.ParseInt(number, 10, 64)
	return n, numbered && err == nil
}
