package inproc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// delivery is one message on its way. A duplicate is the same delivery handled twice.
type delivery struct {
	body      []byte
	reply     chan *rpc.Reply // of a call; takes the first answer
	dropReply bool
	attempts  atomic.Int32
}

func (d *delivery) answer(r *rpc.Reply) {
	if r == nil || d.dropReply {
		return
	}
	select {
	case d.reply <- r:
	default: // answered already
	}
}

// queue holds the messages of one topic in order.
type queue struct {
	topic string

	mu      sync.Mutex
	items   []*delivery
	held    []*delivery   // to be overtaken by the next message
	wake    chan struct{} // holds a token when there may be items
	servers int
}

func newQueue(topic string) *queue { return &queue{topic: topic, wake: make(chan struct{}, 1)} }

func (q *queue) join() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.servers++
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.servers--
}

func (q *queue) served() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.servers > 0
}

// put appends d, followed by what was held back for it to overtake.
func (q *queue) put(d *delivery, capacity int, dropOldest bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) >= capacity {
		if !dropOldest {
			return dbaas.Errorf(dbaas.Unavailable, "Too many messages are waiting.")
		}
		q.items = q.items[1:]
	}
	q.items = append(append(q.items, d), q.held...)
	q.held = nil
	q.signal()
	return nil
}

// putBack appends a message that the bus has taken charge of already, whatever the capacity.
func (q *queue) putBack(d *delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, d)
	q.signal()
}

// hold keeps d until another message overtook it, or for a moment.
func (q *queue) hold(d *delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = append(q.held, d)
	time.AfterFunc(holdAtMost, q.release)
}

const holdAtMost = 20 * time.Millisecond

func (q *queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, q.held...)
	q.held = nil
	q.signal()
}

// take waits for the next message; nil when ctx ended.
func (q *queue) take(ctx context.Context) *delivery {
	for ctx.Err() == nil {
		if d := q.pop(); d != nil {
			return d
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	q.mu.Lock() // the token that this worker may have eaten is for another
	defer q.mu.Unlock()
	q.signal()
	return nil
}

func (q *queue) pop() *delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	d := q.items[0]
	q.items = q.items[1:]
	q.signal()
	return d
}

// signal lets one waiting worker look, who passes it on while there is more. The caller holds mu.
func (q *queue) signal() {
	if len(q.items) == 0 {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
