package dbaas

import "strings"

// Nearest finds the known name that a mistyped one was most likely meant to be, "" when none is near.
func Nearest(name string, known []string) string {
	name = strings.ToLower(name)
	best, nearest := len(name)/3+1, ""
	for _, k := range known {
		if d := distance(name, strings.ToLower(k)); d < best || d == best && nearest == "" {
			best, nearest = d, k
		}
	}
	return nearest
}

// distance counts the insertions, deletions and replacements from one word to another (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
