package redis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// slotCount is how many hash slots a cluster has.
const slotCount = 16384

// slotSet is a list of hash slots, ascending. As text it is ranges: "0-99 204".
type slotSet []int

// String writes the ranges.
func (s slotSet) String() string {
	var words []string
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		word := strconv.Itoa(s[i])
		if j > i {
			word += "-" + strconv.Itoa(s[j])
		}
		words = append(words, word)
		i = j + 1
	}
	return strings.Join(words, " ")
}

// MarshalText implements encoding.TextMarshaler.
func (s slotSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *slotSet) UnmarshalText(text []byte) error {
	*s = nil
	for word := range strings.FieldsSeq(string(text)) {
		if err := s.add(word); err != nil {
			return err
		}
	}
	slices.Sort(*s)
	*s = slices.Compact(*s)
	return nil
}

// add appends a slot or a range, as the server writes it.
func (s *slotSet) add(word string) error {
	from, to, isRange := strings.Cut(word, "-")
	a, err := strconv.Atoi(from)
	b := a
	if err == nil && isRange {
		b, err = strconv.Atoi(to)
	}
	if err != nil || a < 0 || b >= slotCount || a > b {
		return fmt.Errorf("%q are no hash slots", word)
	}
	for slot := a; slot <= b; slot++ {
		*s = append(*s, slot)
	}
	return nil
}
