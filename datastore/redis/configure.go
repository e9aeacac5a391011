package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Configure implements [datastore.Guest]. The live server has the first word, for it is the one that may refuse; files
// follow. Cut off in between, the server has what was wanted, and a repeated Configure finds the files behind.
func (g *Guest) Configure(ctx context.Context, d datastore.Desired) (datastore.Applied, error) {
	old, err := g.require()
	if err != nil {
		return datastore.Applied{}, err
	}
	if d.Version != old.Desired.Version {
		return datastore.Applied{}, dbaas.Errorf(dbaas.BadRequest, "The database is of version %s; configuring does not make it %s.", old.Desired.Version, d.Version)
	}
	p, err := g.plan(d)
	if err != nil {
		return datastore.Applied{}, err
	}
	next := *old
	if err := next.adopt(d); err != nil {
		return datastore.Applied{}, err
	}
	if s := d.Secrets[datastore.SecretReplication]; s != "" {
		next.ReplicationSecret = s
	}
	state, err := g.host.Units.State(ctx, unit)
	if err != nil {
		return datastore.Applied{}, err
	}
	if !state.Running {
		if err := g.requireCopy(old, &next, nil); err != nil {
			return datastore.Applied{}, err
		}
		return datastore.Applied{}, g.write(&next)
	}
	return g.configureLive(ctx, old, &next, p)
}

func (g *Guest) configureLive(ctx context.Context, old, next *record, p plan) (applied datastore.Applied, err error) {
	c, err := g.awaitAnswer(ctx, old) // perhaps it was only just started
	if err != nil {
		return applied, err
	}
	i, err := c.info(ctx)
	if err != nil {
		return applied, err
	}
	if err := g.requireCopy(old, next, i); err != nil {
		return applied, err
	}
	running, err := c.configGet(ctx, "*")
	if err != nil {
		return applied, err
	}
	live, restart := difference(p.version, p.wanted(), running)
	encryption, err := g.tlsSettings(next, running)
	if err != nil {
		return applied, err
	}
	if err := g.writeCertificate(next); err != nil {
		return applied, err
	}
	maps.Copy(live, encryption)
	delete(live, "appendonly") // persist does that, in the order that loses nothing
	before, after := unitMemory(old.Desired), unitMemory(next.Desired)
	if after > before { // more room first, less room last
		if err := g.limitMemory(ctx, old, after); err != nil {
			return applied, err
		}
	}
	if err := c.configSet(ctx, live); err != nil {
		return applied, refusal(err)
	}
	if err := g.settle(ctx, c, old, next); err != nil {
		return applied, errors.Join(err, g.putBack(ctx, c, old, running.only(live)))
	}
	if after < before {
		if err := g.limitMemory(ctx, next, after); err != nil {
			return applied, err
		}
	}
	if _, err := g.open(ctx, next, c); err != nil && (next.encrypted() || old.encrypted()) {
		return applied, err
	} // else Status goes on with what it still waits for
	g.forgetCertificates(next)
	if persistenceOf(next.Desired) != persistenceOf(old.Desired) {
		_, _ = g.persistNow(ctx, next, c) // likewise
		applied.Warnings = []string{lossOf(next.Desired)}
	}
	applied.RestartRequired = restart
	for name := range encryption {
		delete(live, name) // it is not the tenant's
	}
	applied.Effective, err = readBack(ctx, c, p.version, live)
	return applied, err
}

// only gives the settings that others name too.
func (s settings) only(others settings) settings {
	some := settings{}
	for name := range others {
		some[name] = s[name]
	}
	return some
}

// settle makes accounts, files and the role follow what the server has taken. The role comes last: a restart in between
// comes up in the new one.
func (g *Guest) settle(ctx context.Context, c *client, old, next *record) error {
	if !slices.Equal(next.accounts(), old.accounts()) {
		if err := c.setAccounts(ctx, next.accounts()); err != nil {
			return err
		}
	}
	rotated := next.ReplicationSecret != old.ReplicationSecret
	if rotated {
		if err := c.configSet(ctx, next.login()); err != nil {
			return err
		}
	}
	if err := g.write(next); err != nil {
		return err
	}
	if err := c.takeRole(ctx, next); err != nil {
		return err
	}
	if rotated && !next.Desired.Cluster { // where anybody may be anybody's master, all are told first
		return c.renewLink(ctx)
	}
	return nil
}

// putBack undoes what was done when the rest could not be.
func (g *Guest) putBack(ctx context.Context, c *client, old *record, before settings) error {
	if err := c.configSet(ctx, before); err != nil {
		return err
	}
	if err := c.setAccounts(ctx, old.accounts()); err != nil {
		return err
	}
	if err := c.configSet(ctx, old.login()); err != nil {
		return err
	}
	if err := g.write(old); err != nil {
		return err
	}
	return c.takeRole(ctx, old)
}

// limitMemory gives the running unit another limit.
func (g *Guest) limitMemory(ctx context.Context, r *record, limit int64) error {
	found, err := inspectData(g.data)
	if err != nil {
		return err
	}
	spec, err := g.spec(ctx, r, found)
	if err != nil {
		return err
	}
	spec.MemoryMax = limit
	return g.host.Units.Start(ctx, spec) // leaves one that runs alone, but for its limit
}

// readBack finds values that the server took otherwise than they were asked for.
func readBack(ctx context.Context, c *client, version string, set settings) (map[string]string, error) {
	if len(set) == 0 {
		return nil, nil
	}
	running, err := c.configGet(ctx, "*")
	if err != nil {
		return nil, err
	}
	var differing map[string]string
	off, restart := difference(version, set, running)
	for name := range off {
		if differing == nil {
			differing = map[string]string{}
		}
		differing[name] = running[name]
	}
	if len(restart) > 0 {
		return differing, fmt.Errorf("set live what needs a restart: %v", slices.Sorted(slices.Values(restart)))
	}
	return differing, nil
}

// refusedParameter finds the parameter and the reason in
//
//	ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config
var refusedParameter = regexp.MustCompile(`^ERR CONFIG SET failed \(possibly related to argument '([^']+)'\) - (.*)$`)

// refusal turns the server's refusal into one that names the parameter. Nothing was set.
func refusal(err error) error {
	if !hasPrefix(err, "ERR") {
		return fmt.Errorf("set the configuration: %w", err)
	}
	if m := refusedParameter.FindStringSubmatch(err.Error()); m != nil {
		return dbaas.WrapError(err, dbaas.Unprocessable, "The database refuses the value of parameter %q: %s.", m[1], m[2])
	}
	return dbaas.WrapError(err, dbaas.Unprocessable, "The database refuses the configuration.")
}
