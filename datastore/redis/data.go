package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// The files of the data directory.
const (
	rdbFile     = "dump.rdb"
	aofDir      = "appendonlydir"
	aofFile     = "appendonly.aof"
	aofManifest = aofFile + ".manifest"
	markFile    = "grove.json"
)

// mark is on the data volume and says whose it is, so that no other, and no empty mount point, is taken for it.
type mark struct {
	ID string `json:"id"`
	// Opened: a database has served from here, so that there are data.
	Opened bool `json:"opened"`
	// Volatile: it keeps nothing on disk, so that no file that is here holds its data.
	Volatile bool `json:"volatile,omitempty"`
}

func readMark(dir string) (*mark, error) {
	b, err := os.ReadFile(filepath.Join(dir, markFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	m := new(mark)
	if err == nil {
		err = json.Unmarshal(b, m)
	}
	if err != nil {
		return nil, fmt.Errorf("read the mark of the data volume: %w", err)
	}
	return m, nil
}

func writeMark(dir string, m *mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return host.WriteFile(filepath.Join(dir, markFile), b, 0o600, nil)
}

// claimVolume gives the id of the volume in dir, which it marks when it is new. known is the id that we had, if any.
func claimVolume(dir, known string) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make the data directory: %w", err)
	}
	m, err := readMark(dir)
	if err != nil {
		return "", err
	}
	if known != "" {
		return known, m.require(known)
	}
	if m == nil {
		m = &mark{ID: uuid.NewString()}
		err = writeMark(dir, m)
	}
	return m.ID, err
}

// require refuses a volume that is not the one of that id.
func (m *mark) require(id string) error {
	if m == nil || m.ID != id {
		return dbaas.Errorf(dbaas.Unavailable, "The data volume is not the one that holds this database; it is not started on another.")
	}
	return nil
}

// form is how the data lie on the volume.
type form int

const (
	formNothing    form = iota
	formAppendOnly      // an append-only file
	formSnapshot        // only a snapshot, which a server that is told of an append-only file would not read
)

// inspect looks at the data before a start. It refuses where the server would begin empty though there were data, unless
// it only follows another and copies them anew. A master that keeps nothing on disk may begin empty, but not where others
// may hold what it had: they would copy its emptiness.
func (g *Guest) inspect(ctx context.Context, r *record) (form, error) {
	m, err := readMark(g.data)
	if err == nil {
		err = m.require(r.Volume)
	}
	if err != nil {
		return 0, err
	}
	found, err := inspectData(g.data)
	switch {
	case m.Volatile && r.master() == nil && !g.alone(ctx, r):
		return 0, dbaas.Errorf(dbaas.Unavailable,
			"The database keeps nothing on disk, and others of its group may still hold its data; it is not started empty as their master. Fail over to one of them.")
	case m.Volatile:
		return formNothing, nil
	case err != nil, found != formNothing, !m.Opened, r.master() != nil:
		return found, err
	}
	return 0, dbaas.Errorf(dbaas.Unavailable, "The data files are gone from the volume; the database is not started empty in their place.")
}

// alone tells whether no other member of the group has data, where none of them keeps any on disk: one that has some lets
// others in, so that it has none where its machine says that nothing listens.
func (g *Guest) alone(ctx context.Context, r *record) bool {
	if r.Desired.Cluster {
		return len(r.Desired.Peers) == 0
	}
	for _, peer := range r.Desired.Peers {
		for _, door := range []int{port, tlsPort} {
			if !g.isShut(ctx, net.JoinHostPort(peer.Address, strconv.Itoa(door))) {
				return false
			}
		}
	}
	return true
}

// isShut tells whether nothing listens at an address, by the word of the machine that has it.
func (g *Guest) isShut(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := g.host.Dial(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// inspectData tells what files there are.
func inspectData(dir string) (form, error) {
	has := func(name string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err == nil && info.Size() > 0
	}
	switch {
	case has(filepath.Join(aofDir, aofManifest)), has(aofFile): // a single file is of before 7.0, and is adopted
		return formAppendOnly, nil
	case hasOrphans(filepath.Join(dir, aofDir)):
		return 0, dbaas.Errorf(dbaas.Unavailable,
			"The append-only files have lost their manifest; the database is not started, for it would begin empty and overwrite them.")
	case has(rdbFile):
		return formSnapshot, nil
	}
	return formNothing, nil
}

// beginEmpty prepares the volume for a server that begins empty. It counts as one that has served once it does again.
func (g *Guest) beginEmpty(r *record) error {
	if err := dropFiles(g.data); err != nil {
		return err
	}
	return writeMark(g.data, &mark{ID: r.Volume})
}

// dropFiles removes data files.
func dropFiles(dir string) error {
	err := errors.Join(os.RemoveAll(filepath.Join(dir, aofDir)), os.RemoveAll(filepath.Join(dir, rdbFile)))
	if err != nil {
		return fmt.Errorf("remove old data files: %w", err)
	}
	return nil
}

// hasOrphans looks for append-only files with data in them.
func hasOrphans(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Size() > 0 && strings.HasPrefix(e.Name(), aofFile+".") {
			return true
		}
	}
	return false
}

// noteVolatile marks whether what is on the volume holds the data.
func noteVolatile(dir string, m *mark, volatile bool) error {
	if m == nil || m.Volatile == volatile {
		return nil
	}
	m.Volatile = volatile
	return writeMark(dir, m)
}

// noteOpened marks that from now on there are data.
func noteOpened(dir string) error {
	m, err := readMark(dir)
	if err != nil || m == nil || m.Opened {
		return err
	}
	m.Opened = true
	return writeMark(dir, m)
}
