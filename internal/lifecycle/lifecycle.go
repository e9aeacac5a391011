// Package lifecycle starts the parts of a process in order and stops them in reverse.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Part is one part of a process. Run works until its context ends and returns nil, or an error that ends the process.
// Start, when set, runs before Run and before the next part starts.
type Part struct {
	Name  string
	Start func(ctx context.Context) error
	Run   func(ctx context.Context) error
	Stop  func(ctx context.Context) error // after Run returned
}

// Run starts parts in order, runs them until ctx ends or one fails, and stops them in reverse: a part ends only after
// those started later have. ready, when not nil, is called once all have started. The error is of every part that
// failed, also of one that did while it was stopped.
func Run(ctx context.Context, logger *slog.Logger, ready func(), parts ...Part) error {
	failed := make(chan error, len(parts))
	var started []*running
	err := func() error {
		for _, p := range parts {
			r, err := begin(ctx, p, failed)
			if err != nil {
				return fmt.Errorf("start %s: %w", p.Name, err)
			}
			started = append(started, r)
		}
		if ready != nil {
			ready()
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		}
	}()
	for i := len(started) - 1; i >= 0; i-- {
		if stopErr := started[i].end(); stopErr != nil {
			logger.Error("part did not stop cleanly", "part", started[i].part.Name, "error", stopErr)
			err = errors.Join(err, stopErr)
		}
	}
	close(failed) // all that could write have ended
	for late := range failed {
		err = errors.Join(err, late)
	}
	return err
}

type running struct {
	part   Part
	cancel context.CancelFunc
	done   chan struct{}
}

// begin starts a part. Its own context does not end with ctx but when its turn to stop comes.
func begin(ctx context.Context, p Part, failed chan<- error) (*running, error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if p.Start != nil {
		if err := p.Start(ctx); err != nil {
			cancel()
			return nil, err
		}
	}
	r := &running{part: p, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if p.Run == nil {
			<-own.Done()
			return
		}
		if err := p.Run(own); err != nil {
			failed <- fmt.Errorf("%s: %w", p.Name, err)
		}
	}()
	return r, nil
}

func (r *running) end() error {
	r.cancel()
	<-r.done
	if r.part.Stop == nil {
		return nil
	}
	if err := r.part.Stop(context.Background()); err != nil {
		return fmt.Errorf("stop %s: %w", r.part.Name, err)
	}
	return nil
}
