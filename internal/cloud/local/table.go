package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/grove-dbaas/grove/internal/host"
)

// table keeps the records of one kind of resource, one file each, written before they count.
type table[T any] struct {
	dir  string
	rows map[string]T
}

func openTable[T any](dir string) (*table[T], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	t := &table[T]{dir: dir, rows: map[string]T{}}
	if err := removeTemporary(dir); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		var row T
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &row)
		}
		if err != nil {
			return nil, fmt.Errorf("read record %s: %w", path, err)
		}
		t.rows[strings.TrimSuffix(filepath.Base(path), ".json")] = row
	}
	return t, nil
}

// removeTemporary removes what writes that were cut off have left.
func removeTemporary(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, ".*.tmp"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

func (t *table[T]) path(id string) string { return filepath.Join(t.dir, id+".json") }

func (t *table[T]) put(id string, row T) error {
	b, err := json.MarshalIndent(row, "", "  ")
	if err != nil {
		return err
	}
	if err := host.WriteFile(t.path(id), b, 0o600, nil); err != nil {
		return err
	}
	t.rows[id] = row
	return nil
}

func (t *table[T]) remove(id string) error {
	if _, ok := t.rows[id]; !ok {
		return nil
	}
	if err := os.Remove(t.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	delete(t.rows, id)
	return host.SyncDir(t.dir)
}

// named is a row that an Ensure finds again.
type named interface {
	tag() (guestID, name string)
	born() int64
}

// find lists the ids of the rows of that guest and name, the one to keep first: that is the recorded one, else the
// oldest.
func find[T named](t *table[T], guestID, name, recordedID string) []string {
	var ids []string
	for id, row := range t.rows {
		if g, n := row.tag(); g != guestID || n != name {
			continue
		}
		ids = append(ids, id)
		if first := ids[0]; id == recordedID || first != recordedID && row.born() < t.rows[first].born() {
			ids[0], ids[len(ids)-1] = id, first
		}
	}
	return ids
}
