package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// commander is what a writer writes through: a client of an instance, or of a cluster.
type commander interface {
	redis.Cmdable
	Close() error
}

// writer is a tenant's program that writes one key after the other, and remembers what it was told of each.
type writer struct {
	t      testing.TB
	client commander
	prefix string
	stop   func()
	mu     sync.Mutex   // guards the fields below
	acked  map[int]bool // true: WAIT confirmed that a replica has it
	errors []string
	newest time.Time     // when the newest acknowledged write was sent
	pause  time.Duration // the longest time between two acknowledged writes
	lastOK time.Time
}

// writes lets a program write through client until the test ends, or stop is called.
func writes(t testing.TB, client commander, prefix string) *writer {
	t.Helper()
	w := &writer{t: t, client: client, prefix: prefix, acked: map[int]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			w.write(n)
			<-pace.C
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(func() {
		w.stop()
		_ = client.Close()
	})
	w.awaitWrite(60 * time.Second)
	return w
}

// write writes the nth key once. What is not acknowledged may have been written, or not.
func (w *writer) write(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	begun := time.Now()
	var set *redis.StatusCmd
	var wait *redis.Cmd
	_, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		set = p.Set(ctx, w.key(n), n, 0)
		if _, one := w.client.(*redis.Client); one { // a WAIT has no key, by which a cluster's client could send it
			wait = p.Do(ctx, "WAIT", 1, 200)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if set == nil || set.Err() != nil {
		w.errors = append(w.errors, fmt.Sprint(begun.Format(time.StampMilli), " ", err))
		return
	}
	if now := time.Now(); !w.lastOK.IsZero() {
		w.pause, w.lastOK = max(w.pause, now.Sub(w.lastOK)), now
	} else {
		w.lastOK = now
	}
	w.newest = begun
	w.acked[n] = false
	if wait != nil {
		reached, err := wait.Int()
		w.acked[n] = err == nil && reached > 0
	}
}

func (w *writer) key(n int) string { return w.prefix + strconv.Itoa(n) }

// awaitWrite waits until a write is acknowledged that is sent from now on, and tells how long that took.
func (w *writer) awaitWrite(within time.Duration) time.Duration {
	w.t.Helper()
	begun := time.Now()
	w.awaitWriteAfter(begun, within)
	return time.Since(begun)
}

// awaitWriteAfter waits until a write is acknowledged that is sent after moment, which may be to come.
func (w *writer) awaitWriteAfter(moment time.Time, within time.Duration) {
	w.t.Helper()
	eventually(w.t, max(time.Until(moment), 0)+within, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.newest.After(moment) {
			return nil
		}
		return fmt.Errorf("no write since %s; %v", moment.Format(time.StampMilli), w.errors[max(len(w.errors)-1, 0):])
	})
}

// forget begins anew to note errors and the longest pause.
func (w *writer) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors, w.pause, w.lastOK = nil, 0, time.Time{}
}

// longestPause gives the longest time between two acknowledged writes since forget, and how many failed.
func (w *writer) longestPause() (pause time.Duration, failed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pause, len(w.errors)
}

// requireNoErrors fails when a write was refused since forget.
func (w *writer) requireNoErrors(doing string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) > 0 {
		w.t.Errorf("%s: %d writes failed: %v", doing, len(w.errors), w.errors[:min(len(w.errors), 3)])
	}
}

// requireAll fails when a write is missing that WAIT confirmed; with acknowledged, any that was answered OK.
func (w *writer) requireAll(c redis.Cmdable, acknowledged bool) {
	w.t.Helper()
	w.mu.Lock()
	acked := maps.Clone(w.acked)
	w.mu.Unlock()
	var numbers, missing []int
	for n, confirmed := range acked {
		if confirmed || acknowledged {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		w.t.Error("no write was confirmed")
	}
	slices.Sort(numbers)
	for part := range slices.Chunk(numbers, 500) {
		eventually(w.t, 60*time.Second, func() error { // reading goes through the same address
			got, err := w.read(c, part)
			missing = append(missing, got...)
			return err
		})
	}
	if len(missing) > 0 {
		w.t.Errorf("%d of %d writes are lost: %v", len(missing), len(numbers), missing[:min(len(missing), 20)])
	}
}

// read gives those of the numbers whose keys are not there as written.
func (w *writer) read(c redis.Cmdable, numbers []int) (missing []int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var got []*redis.StringCmd
	_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range numbers {
			got = append(got, p.Get(ctx, w.key(n)))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	for i, n := range numbers {
		if got[i].Err() != nil && !errors.Is(got[i].Err(), redis.Nil) {
			return nil, got[i].Err()
		}
		if got[i].Val() != strconv.Itoa(n) {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

// summary tells how the writing went.
func (w *writer) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	confirmed := 0
	for _, c := range w.acked {
		if c {
			confirmed++
		}
	}
	return fmt.Sprintf("%d writes, %d confirmed by WAIT, %d failed, longest pause %s", len(w.acked), confirmed, len(w.errors), w.pause.Round(time.Millisecond))
}
