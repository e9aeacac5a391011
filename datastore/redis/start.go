package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

const (
	startTimeout = 15 * time.Second // until the server answers, loading or not
	startPoll    = 3 * time.Millisecond
	// stopTimeout in seconds covers the server's own patience with replicas and a last write of its files.
	stopTimeout = 120
)

// Start implements [datastore.Guest]. The server comes up with its port shut; it is opened when the data are loaded and
// are the right ones, here or, where that takes long, in Status.
func (g *Guest) Start(ctx context.Context) error {
	r, err := g.require()
	if err != nil {
		return err
	}
	state, err := g.host.Units.State(ctx, unit)
	if err != nil {
		return err
	}
	if !state.Running {
		if err := g.launch(ctx, r, strings.Contains(state.Output, badFormat)); err != nil {
			return err
		}
	}
	c, err := g.awaitAnswer(ctx, r)
	if err != nil {
		return err
	}
	if err := c.setAccounts(ctx, r.accounts()); err != nil {
		return err
	}
	_, err = g.open(ctx, r, c) // what it still waits for, Status goes on with
	return err
}

// launch starts the process. refused is whether the last one ended because it could not load its append-only file.
func (g *Guest) launch(ctx context.Context, r *record, refused bool) error {
	if err := g.requireMounted(ctx); err != nil {
		return err
	}
	found, err := g.inspect(ctx, r)
	if err != nil {
		return err
	}
	if found == formNothing {
		if err := g.beginEmpty(r); err != nil {
			return err
		}
	}
	if err := errors.Join(mendFiles(ctx, g.data, refused || g.suspected()), mendNodes(g.data)); err != nil {
		return err
	}
	if err := g.render(r); err != nil {
		return err
	}
	spec, err := g.spec(ctx, r, found)
	if err != nil {
		return err
	}
	_ = g.Close() // a connection to the process before is of no use
	if err := errors.Join(g.host.Share(g.dir), g.host.Entrust(g.data)); err != nil {
		return err
	}
	return g.host.Units.Start(ctx, spec)
}

func (g *Guest) spec(ctx context.Context, r *record, found form) (host.UnitSpec, error) {
	program, err := g.program(ctx, r.Desired.Version)
	if err != nil {
		return host.UnitSpec{}, err
	}
	argv := []string{program, g.path(configFile)}
	switch wanted := persistenceOf(r.Desired); { // what is there is read; persist goes on from it
	case found == formSnapshot && wanted == dbaas.PersistenceAOF:
		argv = append(argv, "--appendonly", "no")
	case found == formAppendOnly && wanted != dbaas.PersistenceAOF:
		argv = append(argv, "--appendonly", "yes")
	}
	if len(g.path(socketFile)) > mostSocketPath {
		argv = append([]string{"/bin/sh", "-c", fmt.Sprintf(`exec %d<"$0" && exec "$@"`, socketFD), g.dir}, argv...)
	}
	return host.UnitSpec{
		Name: unit, Argv: argv, Dir: g.dir, NoFile: files, StopTimeout: stopTimeout,
		MemoryMax: unitMemory(r.Desired),
	}, nil
}

func unitMemory(d datastore.Desired) int64 {
	return sizing(sizingOf(d)).unit
}

// program finds the version's program.
func (g *Guest) program(ctx context.Context, version string) (string, error) {
	v, ok := manifest().Version(version)
	if !ok {
		return "", dbaas.Errorf(dbaas.BadRequest, "This agent does not know the version %q of Redis.", version)
	}
	path, _, err := v.Program(ctx, g.host.Programs(v.Binary))
	return path, err
}

// awaitAnswer waits until the server speaks with us.
func (g *Guest) awaitAnswer(ctx context.Context, r *record) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		c, err := g.connect(ctx, r)
		if err == nil {
			err = c.answers(ctx)
		}
		if err == nil {
			return c, nil
		}
		if err := g.requireRunning(ctx); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the server runs but does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// requireRunning explains why the server does not run.
func (g *Guest) requireRunning(ctx context.Context) error {
	state, err := g.host.Units.State(ctx, unit)
	if err != nil || state.Running {
		return err
	}
	if reason := refusedConfiguration(state.Output); reason != "" {
		return dbaas.Errorf(dbaas.Unprocessable, "The server refuses its configuration: %s", reason)
	}
	return fmt.Errorf("the server ended (%s): %s", state.ExitErr, lastLine(state.Output))
}

// refusedConfiguration finds in a server's last words which directive it did not like:
//
//	*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***
//	Reading the configuration file, at line 8
//	>>> 'activedefrag yes'
//	Active defragmentation cannot be enabled: …
func refusedConfiguration(output string) string {
	_, after, found := strings.Cut(output, "*** FATAL CONFIG FILE ERROR")
	if !found {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(after), "\n")
	if len(lines) < 4 {
		return "the log has the details."
	}
	reason := strings.TrimPrefix(lines[2], ">>> ") + ": " + lines[3]
	if withoutTLS(reason) {
		return "it was built without TLS."
	}
	return reason
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}

// open opens the port once the server has loaded its data and they are the right ones. cause says what it waits for.
func (g *Guest) open(ctx context.Context, r *record, c *client) (cause string, err error) {
	g.door.Lock()
	defer g.door.Unlock()
	i, err := c.info(ctx)
	if err != nil {
		return "", err
	}
	return g.openAfter(ctx, r, c, i)
}

func (g *Guest) openAfter(ctx context.Context, r *record, c *client, i info) (cause string, err error) {
	if i["loading"] == "1" || i["async_loading"] == "1" {
		return causeLoading, nil
	}
	running, err := c.configGet(ctx, "port", "tls-port", "dir")
	if err != nil {
		return "", err
	}
	if isOpen(running) {
		return "", g.unlock(ctx, r, c, running)
	}
	if i["config_file"] != g.path(configFile) || running["dir"] != g.data {
		return "", errors.New("the server at our socket is another: its configuration file or its directory is not ours")
	}
	if r.Dismissed {
		return causeDismissed, nil
	}
	if cause, err := g.awaitRole(ctx, r, c, i); cause != "" || err != nil {
		return cause, err
	}
	if done, err := g.persist(ctx, r, c, i); !done || err != nil {
		return causeConverting, err
	}
	if err := g.unlock(ctx, r, c, running); err != nil {
		return "", err
	}
	return "", noteOpened(g.data)
}

// unlock opens the ports that should be open and shuts the others. It takes that back when it would let in strangers.
func (g *Guest) unlock(ctx context.Context, r *record, c *client, running settings) error {
	doors := r.doors(running)
	if len(doors) == 0 {
		return nil
	}
	if err := c.configSet(ctx, doors); err != nil {
		return dbaas.WrapError(err, dbaas.Conflict, "Port %s of %s is taken by another program.", doors.ports(), r.Desired.Address)
	}
	if err := g.requireLocked(ctx, r); err != nil {
		return errors.Join(err, c.configSet(ctx, running.only(doors)))
	}
	return nil
}
