package local

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/host"
)

// Owned lists what there is of a guest ("" for all): by the records, and on disk, in mounts and among processes what
// has no record. A server without one has the guest's id as its own.
func (c *Cloud) Owned(_ context.Context, guestID string) ([]cloud.Resource, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []cloud.Resource
	add := func(kind, id, guest string) {
		if guestID == "" || guest == guestID {
			all = append(all, cloud.Resource{Kind: kind, ID: id, GuestID: guest})
		}
	}
	servers := map[string]bool{}
	for id, s := range c.servers.rows {
		servers[s.GuestID] = true
		add(cloud.KindServer, id, s.GuestID)
	}
	for id, v := range c.volumes.rows {
		add(cloud.KindVolume, id, v.GuestID)
	}
	for id, p := range c.ports.rows {
		add(cloud.KindPort, id, p.GuestID)
	}
	for id, g := range c.security.rows {
		add(cloud.KindSecurityGroup, id, g.GuestID)
	}
	for id, a := range c.address.rows {
		add(cloud.KindAddress, id, a.OwnerID)
	}
	for id, g := range c.groups.rows {
		add(cloud.KindServerGroup, id, g.GroupID)
	}
	guests, err := c.guestsOnMachine(guestID)
	if err != nil {
		return nil, err
	}
	for _, guest := range guests {
		if !servers[guest] && c.leftovers(guest) {
			add(cloud.KindServer, guest, guest)
		}
		for _, id := range c.strayVolumes(guest) {
			add(cloud.KindVolume, id, guest)
		}
	}
	slices.SortFunc(all, func(a, b cloud.Resource) int {
		return strings.Compare(a.GuestID+a.Kind+a.ID, b.GuestID+b.Kind+b.ID)
	})
	return all, nil
}

// guestsOnMachine lists the guests of which something may be on this machine.
func (c *Cloud) guestsOnMachine(guestID string) ([]string, error) {
	if guestID != "" {
		return []string{guestID}, nil
	}
	root := filepath.Join(c.cfg.Dir, "servers")
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	guests := map[string]bool{}
	for _, e := range entries {
		guests[e.Name()] = true
	}
	strays, err := host.Strays(root)
	if err != nil {
		return nil, err
	}
	for _, s := range strays { // whose directory may be gone
		if rel, err := filepath.Rel(root, s.Path); err == nil && rel != "." {
			guests[strings.Split(rel, "/")[0]] = true
		}
	}
	return slices.Collect(maps.Keys(guests)), nil
}

// leftovers tells whether there is something of a guest that only a server has: files, a mount, processes.
func (c *Cloud) leftovers(guestID string) bool {
	dir := c.serverDir(guestID)
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		return true
	}
	for _, e := range entries {
		if !isVolumeName(e.Name()) {
			return true
		}
	}
	strays, err := host.Strays(dir)
	return err != nil || len(strays) > 0
}

func isVolumeName(name string) bool { return strings.HasPrefix(name, volumePrefix) }

// strayVolumes lists the ids of a guest's volumes that have no record but content, or a loop device on deleted content.
func (c *Cloud) strayVolumes(guestID string) []string {
	dir := c.serverDir(guestID)
	var names []string
	entries, _ := os.ReadDir(dir) // none is none
	for _, e := range entries {
		names = append(names, e.Name())
	}
	loops, _ := loopsBelow(dir)
	for _, file := range loops {
		names = append(names, filepath.Base(file))
	}
	var ids []string
	for _, name := range names {
		id, ok := strings.CutPrefix(strings.TrimSuffix(name, imageSuffix), volumePrefix)
		if _, known := c.volumes.rows[id]; ok && !known && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return host.WriteFile(path, b, 0o600, nil)
}
