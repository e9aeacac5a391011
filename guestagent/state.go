package guestagent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/secret"
)

// state is what the agent must know after its own death: what the database should be doing, and whom it still obeys.
type state struct {
	Boots      int64            `json:"boots"` // starts of the agent: reports are put in order by it
	Prepared   bool             `json:"prepared"`
	Running    bool             `json:"running"` // as ordered; a crash does not change it
	GroupEpoch int64            `json:"group_epoch"`
	Leases     map[string]int64 `json:"leases"` // highest lease epoch by operation
	Order      []string         `json:"order"`  // operations, the oldest first
	// Desired is what the database was last made to be: its role, and who else is in its group. No secrets.
	Desired datastore.Desired `json:"desired"`
	// RoleEpoch is the group's epoch in which it was made so.
	RoleEpoch int64 `json:"role_epoch"`
}

// remember notes an operation's lease epoch and forgets the operations of long ago.
func (s *state) remember(operationID string, epoch int64) {
	if s.Leases == nil {
		s.Leases = map[string]int64{}
	}
	if _, known := s.Leases[operationID]; !known {
		s.Order = append(s.Order, operationID)
	}
	s.Leases[operationID] = epoch
	for len(s.Order) > mostFences {
		delete(s.Leases, s.Order[0])
		s.Order = s.Order[1:]
	}
}

func (s *state) clone() state {
	c := *s
	c.Leases, c.Order = maps.Clone(s.Leases), slices.Clone(s.Order)
	return c
}

func openState(dir string) (state, error) {
	var s state
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the agent's state: %w", err)
	}
	return s, nil
}

// memory keeps the state, on disk before anybody goes by it. It is safe for concurrent use.
type memory struct {
	path string
	mu   sync.Mutex // guards the fields below
	text []byte     // as it is on disk
	now  state
}

func openMemory(dir string) (*memory, error) {
	s, err := openState(dir)
	return &memory{path: filepath.Join(dir, stateFile), now: s}, err
}

// get gives the state, which is only to be read.
func (m *memory) get() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// change edits the state durably, or, with an error, not at all.
func (m *memory) change(edit func(*state) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.now.clone()
	if err := edit(&next); err != nil {
		return err
	}
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the agent's state: %w", err)
	}
	if bytes.Equal(text, m.text) {
		return nil
	}
	if err := host.WriteFile(m.path, text, 0o600, nil); err != nil {
		return fmt.Errorf("save the agent's state: %w", err)
	}
	m.now, m.text = next, text
	return nil
}

const (
	stateFile  = "state.json"
	keyFile    = "agent.key"
	journalDir = "journal"
)

// openKey reads the agent's key, or makes it at the first start.
func openKey(dir string) (*secret.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	raw, err := os.ReadFile(path)
	if err == nil {
		return secret.ParsePrivateKey(raw)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the agent's key: %w", err)
	}
	key, err := secret.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	if raw, err = key.Bytes(); err != nil {
		return nil, err
	}
	if err := host.WriteFile(path, raw, 0o600, nil); err != nil {
		return nil, fmt.Errorf("save the agent's key: %w", err)
	}
	return key, nil
}

// journal remembers the answers to commands: one file each, off the data volume, written aside, synced and renamed.
type journal struct {
	dir   string
	fresh int // answers since the last pruning
}

// journalSize is how many answers are kept; a command is repeated within minutes or never.
const journalSize = 200

func openJournal(dir string) (*journal, error) {
	j := &journal{dir: dir}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	return j, j.prune()
}

// find gives the answer to a command that was done.
func (j *journal) find(id string) (answer json.RawMessage, done bool, err error) {
	path, err := j.path(id)
	if err != nil {
		return nil, false, err
	}
	answer, err = os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the journal: %w", err)
	}
	return answer, true, nil
}

// record keeps the answer to a command.
func (j *journal) record(id string, value any) (json.RawMessage, error) {
	path, err := j.path(id)
	if err != nil {
		return nil, err
	}
	answer, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode an answer for the journal: %w", err)
	}
	if err := host.WriteFile(path, answer, 0o600, nil); err != nil {
		return nil, fmt.Errorf("write the journal: %w", err)
	}
	if j.fresh++; j.fresh >= journalSize {
		return answer, j.prune()
	}
	return answer, nil
}

// path refuses ids that are no file names.
func (j *journal) path(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/\\\x00") || strings.HasPrefix(id, ".") || len(id) > 200 {
		return "", dbaas.Errorf(dbaas.BadRequest, "The id of a command is a file's name, not %q.", id)
	}
	return filepath.Join(j.dir, id+".json"), nil
}

// prune removes the oldest answers.
func (j *journal) prune() error {
	j.fresh = 0
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	if len(entries) <= journalSize {
		return nil
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return modTime(a).Compare(modTime(b)) })
	for _, e := range entries[:len(entries)-journalSize] {
		if err := os.Remove(filepath.Join(j.dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("prune the journal: %w", err)
		}
	}
	return nil
}

func modTime(e os.DirEntry) time.Time {
	info, err := e.Info()
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
