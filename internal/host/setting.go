package host

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Setting is a value of the operating system that a database needs.
type Setting struct {
	Path string // the kernel's file
	Want string // what is written where it does not fit
	Fits func(value string) bool
	Why  string // a sentence for operators
}

// Unfit is a setting that is not as a database needs it.
type Unfit struct {
	Setting
	Value string // as it is
}

// Settle checks settings and gives those that do not fit. On a machine that is the guest's own they are set first; a
// shared machine is its owner's to change. What the kernel does not have is not missed.
func (h *Host) Settle(settings []Setting) ([]Unfit, error) {
	var unfit []Unfit
	var errs []error
	for _, s := range settings {
		value, err := s.read()
		if errors.Is(err, os.ErrNotExist) || err == nil && s.Fits(value) {
			continue
		}
		if err == nil && h.Dedicated {
			if err = os.WriteFile(s.Path, []byte(s.Want), 0); err == nil {
				value, err = s.read()
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("settle %s: %w", s.Path, err))
		}
		if !s.Fits(value) {
			unfit = append(unfit, Unfit{Setting: s, Value: value})
		}
	}
	return unfit, errors.Join(errs...)
}

func (s Setting) read() (string, error) {
	b, err := os.ReadFile(s.Path)
	return strings.TrimSpace(string(b)), err
}
