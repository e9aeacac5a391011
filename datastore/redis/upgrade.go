package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

var _ datastore.Upgrader = (*Guest)(nil)

// upgrades tells to which versions data can be brought. There is no way back: a server reads no files of a newer format.
// From 7.4 on Redis writes one that Valkey does not read.
func upgrades() map[string][]string {
	return map[string][]string{
		redis70:  {redis72, redis74, redis80, valkey80, valkey81},
		redis72:  {redis74, redis80, valkey80, valkey81},
		redis74:  {redis80},
		valkey80: {valkey81},
	}
}

// Upgrade implements [datastore.Upgrader]. Until the new version has loaded the data, the files are kept as the old one
// left them; when it does not, the old one serves again.
func (g *Guest) Upgrade(ctx context.Context, d datastore.Desired) error {
	r, err := g.require()
	if err != nil {
		return err
	}
	if r.Desired.Version != d.Version {
		if r, err = g.beginUpgrade(ctx, r, d); err != nil {
			return err
		}
	}
	if r.Before != nil {
		if err := g.finishUpgrade(ctx, r); err != nil {
			return err
		}
	}
	_, err = g.Configure(ctx, d)
	return err
}

func (g *Guest) beginUpgrade(ctx context.Context, r *record, d datastore.Desired) (*record, error) {
	from := r.Desired.Version
	if !slices.Contains(upgrades()[from], d.Version) {
		return nil, dbaas.Errorf(dbaas.BadRequest, "The data of version %s cannot be brought to version %s.", from, d.Version)
	}
	if _, err := g.program(ctx, d.Version); err != nil {
		return nil, err
	}
	next := *r
	next.Before = &r.Desired
	next.Desired.Version, next.Desired.Values = d.Version, d.Values
	if _, err := newPlan(next.Desired); err != nil {
		return nil, err
	}
	if err := g.Stop(ctx); err != nil {
		return nil, err
	}
	if err := keepFiles(g.data); err != nil {
		return nil, err
	}
	return &next, g.write(&next)
}

// finishUpgrade starts the new version and waits until it has loaded the data.
func (g *Guest) finishUpgrade(ctx context.Context, r *record) error {
	err := g.Start(ctx)
	if err == nil {
		err = poll(ctx, func() (bool, error) { return g.loaded(ctx, r) })
	}
	if err == nil {
		done := *r
		done.Before = nil
		return errors.Join(g.write(&done), forgetFiles(g.data))
	}
	state, unseen := g.host.Units.State(ctx, unit)
	if unseen != nil {
		return errors.Join(err, unseen)
	}
	if state.Running {
		return dbaas.WrapError(err, dbaas.Unavailable, "Version %s has started, and has not loaded the data yet.", r.Desired.Version)
	}
	return g.revert(ctx, r, err)
}

// loaded tells whether the server has its data in memory.
func (g *Guest) loaded(ctx context.Context, r *record) (bool, error) {
	if err := g.requireRunning(ctx); err != nil {
		return false, err
	}
	c, err := g.connect(ctx, r)
	if err != nil {
		return false, nil // it may be about to end
	}
	i, err := c.info(ctx)
	if err != nil || i["loading"] != "0" {
		return false, nil // likewise
	}
	_, err = g.open(ctx, r, c)
	return err == nil, err
}

// revert brings the old version back, on its own files. why is what the new one ended with.
func (g *Guest) revert(ctx context.Context, r *record, why error) error {
	if err := g.host.Units.Stop(ctx, unit); err != nil { // nothing is left of it
		return errors.Join(why, err)
	}
	if err := putFilesBack(g.data); err != nil {
		return errors.Join(why, err)
	}
	old := *r
	old.Desired, old.Before = *r.Before, nil
	if err := g.write(&old); err != nil {
		return errors.Join(why, err)
	}
	if err := errors.Join(forgetFiles(g.data), g.Start(ctx)); err != nil {
		return errors.Join(why, err)
	}
	return dbaas.WrapError(why, dbaas.Conflict, "Version %s did not start on the data of version %s, which serves them again.", r.Desired.Version, old.Desired.Version)
}

// keptDir is on the volume and holds what the old version left, under second names: a server never changes a file in
// place, it makes new ones, but for what it appends.
const (
	keptDir   = "before-upgrade"
	keptSizes = "sizes.json"
)

// keepFiles gives the data files a second name and notes their sizes.
func keepFiles(data string) error {
	kept := filepath.Join(data, keptDir)
	if err := errors.Join(os.RemoveAll(kept), os.MkdirAll(filepath.Join(kept, aofDir), 0o700)); err != nil {
		return fmt.Errorf("keep the files of the old version: %w", err)
	}
	paths, err := filepath.Glob(filepath.Join(data, aofDir, "*"))
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, path := range append(paths, filepath.Join(data, rdbFile)) {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		name := strings.TrimPrefix(path, data+string(filepath.Separator))
		if err == nil {
			sizes[name], err = info.Size(), os.Link(path, filepath.Join(kept, name))
		}
		if err != nil {
			return fmt.Errorf("keep the files of the old version: %w", err)
		}
	}
	b, err := json.Marshal(sizes)
	if err != nil {
		return err
	}
	return errors.Join(host.SyncDir(filepath.Join(kept, aofDir)), host.WriteFile(filepath.Join(kept, keptSizes), b, 0o600, nil))
}

// putFilesBack makes the files what they were. It may be cut off and done again.
func putFilesBack(data string) error {
	kept := filepath.Join(data, keptDir)
	b, err := os.ReadFile(filepath.Join(kept, keptSizes))
	if err != nil {
		return fmt.Errorf("find the files of the old version: %w", err)
	}
	var sizes map[string]int64
	if err := json.Unmarshal(b, &sizes); err != nil {
		return fmt.Errorf("find the files of the old version: %w", err)
	}
	if _, err := os.Stat(filepath.Join(kept, aofDir)); err == nil {
		err = errors.Join(os.RemoveAll(filepath.Join(data, aofDir)), os.Rename(filepath.Join(kept, aofDir), filepath.Join(data, aofDir)))
		if err != nil {
			return fmt.Errorf("put the append-only file back: %w", err)
		}
	}
	if err := os.Rename(filepath.Join(kept, rdbFile), filepath.Join(data, rdbFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("put the snapshot back: %w", err)
	}
	for name, size := range sizes {
		if info, err := os.Lstat(filepath.Join(data, name)); !filepath.IsLocal(name) || err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("put %s back: it is not a file of the database", name) // which owns what we read, and may lie
		}
		if err := os.Truncate(filepath.Join(data, name), size); err != nil {
			return fmt.Errorf("put %s back: %w", name, err)
		}
	}
	return host.SyncDir(data)
}

func forgetFiles(data string) error {
	if err := os.RemoveAll(filepath.Join(data, keptDir)); err != nil {
		return fmt.Errorf("forget the files of the old version: %w", err)
	}
	return nil
}
