package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/internal/host"
)

// forwarderUnit is the unit's name under which the forwarder runs.
const forwarderUnit = "forwarder"

// startForwarder starts the forwarder, or takes over the one that runs, and keeps one running.
func (c *Cloud) startForwarder(ctx context.Context) error {
	if len(c.cfg.Forwarder) == 0 {
		c.work.Go(func() { c.keepTrying(c.forwardHere) })
		return nil
	}
	units, err := host.OpenProcesses(filepath.Join(c.cfg.Dir, "cloud", "forwarder"), c.cfg.Logger)
	if err != nil {
		return err
	}
	c.forwarder = units
	ended := units.Watch(c.ctx)
	start := func(ctx context.Context) error {
		return units.Start(ctx, host.UnitSpec{Name: forwarderUnit, Argv: c.cfg.Forwarder, StopTimeout: 5})
	}
	if err := start(ctx); err != nil {
		return err
	}
	c.work.Go(func() {
		c.keepTrying(func(ctx context.Context) error {
			if err := start(ctx); err != nil {
				return err
			}
			<-ended
			return errors.New("it ended")
		})
	})
	return nil
}

// forwardHere forwards in this process.
func (c *Cloud) forwardHere(ctx context.Context) error {
	return Forward(ctx, c.cfg.Dir, c.cfg.Logger)
}

// keepTrying runs what should never end until the cloud is closed, at a pace.
func (c *Cloud) keepTrying(run func(context.Context) error) {
	delay := firstRelaunch
	for {
		begun := c.cfg.Clock.Now()
		err := run(c.ctx)
		if c.ctx.Err() != nil {
			return
		}
		if c.cfg.Clock.Now().Sub(begun) > wellAfter {
			delay = firstRelaunch
		}
		c.cfg.Logger.Error("the forwarder of addresses is started again", "error", err, "again_in", delay)
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastRelaunch)
	}
}

// stopForwarder ends the forwarder, or with keep lets go of the one that is a process of its own.
func (c *Cloud) stopForwarder(ctx context.Context, keep bool) error {
	if c.forwarder == nil {
		return nil
	}
	defer c.forwarder.Close()
	if keep {
		return nil
	}
	return c.forwarder.Stop(ctx, forwarderUnit)
}

// forwarderPatience is how long a change waits for a forwarder that is just being started.
const forwarderPatience = 5 * time.Second

// forward has what the records of addresses say put in force.
func (c *Cloud) forward(ctx context.Context, ids ...string) error {
	ctx, cancel := context.WithTimeout(ctx, forwarderPatience)
	defer cancel()
	for {
		err := c.tellForwarder(ctx, ids)
		if err == nil {
			return nil
		}
		var refused forwarderError
		if errors.As(err, &refused) || c.ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the forwarder of addresses does not answer: %w", err)
		case <-c.ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// forwarderError is the forwarder's own answer.
type forwarderError string

func (e forwarderError) Error() string { return string(e) }

func (c *Cloud) tellForwarder(ctx context.Context, ids []string) error {
	conn, err := dialUnix(ctx, filepath.Join(c.cfg.Dir, "cloud"), forwarderSocket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for _, id := range ids {
		if _, err := conn.Write([]byte(id + "\n")); err != nil {
			return err
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if answer = strings.TrimSpace(answer); answer != done {
			return fmt.Errorf("address %s: %w", id, forwarderError(answer))
		}
	}
	return nil
}
