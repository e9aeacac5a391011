package taskmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
)

// serveNudges lets the engine look at once at what a user just asked for.
func (m *Manager) serveNudges(ctx context.Context) error {
	return m.Transport.Serve(ctx, rpc.TopicTaskmanager, 4, func(_ context.Context, e *rpc.Envelope) (any, error) {
		if e.Method != control.MethodNudge {
			return nil, dbaas.Errorf(dbaas.NotImplemented, "The taskmanager has no method %q.", e.Method)
		}
		var n control.Nudge
		if err := json.Unmarshal(e.Args, &n); err != nil {
			return nil, dbaas.WrapError(err, dbaas.BadRequest, "A nudge needs an operation id.")
		}
		m.engine.Nudge(n.OperationID)
		return nil, nil
	})
}

// receiveReports records what guests say of their databases, and wakes the operation that waits for it. What a guest
// says is believed about itself alone: the key that verified the message is the sender's.
func (m *Manager) receiveReports(ctx context.Context) error {
	return m.Transport.Serve(ctx, rpc.TopicReports, 8, func(ctx context.Context, e *rpc.Envelope) (any, error) {
		return nil, redeliver(m.receiveReport(ctx, e))
	})
}

func (m *Manager) receiveReport(ctx context.Context, e *rpc.Envelope) error {
	var report *guest.StatusReport
	err := guest.Keys(m.keys.key).Authentic(ctx, e.Sender, func(key []byte) (err error) {
		report, err = guest.VerifyReport(key, e)
		return err
	})
	if err != nil {
		if unbelieved(err) {
			m.Reports.Report("refused")
			m.Logger.WarnContext(ctx, "a report is not believed", "guest", e.Sender, "error", err)
		}
		return err
	}
	return m.recordReport(ctx, e, report)
}

// unbelieved tells whether a message is refused for what it is, not because the database is away.
func unbelieved(err error) bool {
	switch dbaas.ErrorCode(err) {
	case dbaas.Unauthorized, dbaas.BadRequest:
		return true
	}
	return false
}

// redeliver has a report delivered again that could not be stored now, such as while the database is away: for the
// transport any dbaas.Error is an answer, and the message done with. What will never be stored stays an answer.
func redeliver(err error) error {
	switch dbaas.ErrorCode(err) {
	case "", dbaas.Unauthorized, dbaas.BadRequest, dbaas.NotFound:
		return err
	}
	return fmt.Errorf("record report: %v", err) // not %w: the transport looks for a dbaas.Error
}

func (m *Manager) recordReport(ctx context.Context, e *rpc.Envelope, r *guest.StatusReport) error {
	g, err := m.Store.Guest(ctx, e.Sender)
	if err != nil {
		return err
	}
	changed, err := m.Store.RecordReport(ctx, store.ReportRow{
		GuestID: g.ID, BootID: e.BootID, Sequence: e.Sequence,
		Status: dbaas.GuestStatus(clip(string(r.Status.Status), longestKind)), StatusCause: clip(r.Status.Cause, longestSentence),
		PublicKey: r.PublicKey, AgentVersion: clip(r.AgentVersion, longestKind),
		Observed: dbaas.JSON(r.Observed()), Peers: peersOf(r), Events: reportedEvents(g, r), BrokerTrust: clip(strings.Join(r.BrokerTrust, " "), longestTrust),
	})
	if err != nil {
		return err
	}
	if !changed {
		m.Reports.Report("unchanged")
		return nil
	}
	m.Reports.Report("changed")
	m.clusters.news(g.GroupID)
	if worrying(r) {
		m.watch.suspect(g.InstanceID)
	}
	woken, err := m.Store.WakeOperations(ctx, g.InstanceID)
	for _, id := range woken {
		m.engine.Nudge(id)
	}
	return err
}

// worrying tells whether a report gives reason to look at the guest's instance.
func worrying(r *guest.StatusReport) bool {
	return r.Status.Status != dbaas.GuestHealthy || slices.ContainsFunc(r.Peers, func(p datastore.PeerView) bool { return !p.Alive })
}

// peersOf is how a guest sees the others of its group, as it is stored: without what is of the moment.
func peersOf(r *guest.StatusReport) dbaas.JSON {
	if len(r.Peers) == 0 {
		return nil
	}
	views := slices.Clone(r.Peers)
	for i := range views {
		views[i].UnseenMS, views[i].SilentMS = 0, 0
	}
	text, err := json.Marshal(views)
	if err != nil {
		return nil
	}
	return text
}

// Bounds of what is believed of a guest. The events that bills are made from are not a guest's to tell.
const (
	mostReportedEvents = 100
	longestKind        = 64
	longestSentence    = 1000
	longestTrust       = 10_000 // some three hundred authorities
)

func reportedEvents(g *dbaas.Guest, r *guest.StatusReport) []dbaas.Event {
	var events []dbaas.Event
	for _, ev := range r.Events[:min(len(r.Events), mostReportedEvents)] {
		if strings.HasPrefix(ev.Kind, "instance.") || strings.HasPrefix(ev.Kind, "operation.") {
			continue
		}
		events = append(events, dbaas.Event{
			ID: clip(ev.ID, longestKind), ProjectID: g.ProjectID, ResourceType: "instance", ResourceID: g.InstanceID,
			Kind: clip(ev.Kind, longestKind), Message: clip(ev.Message, longestSentence), Actor: "guest:" + g.ID,
		})
	}
	return events
}

// clip makes a guest's words storable: not too long, and without what PostgreSQL's texts cannot hold.
func clip(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most])
	}
	return s
}

const (
	heartbeatBatch = 500
	heartbeatDelay = 200 * time.Millisecond
	// heartbeatTimeout bounds a write: the batch after it is newer.
	heartbeatTimeout = 5 * time.Second
)

// receiveHeartbeats gathers signs of life and stores them a batch at a time. One that is lost is followed by the next.
func (m *Manager) receiveHeartbeats(ctx context.Context) error {
	beats := make(chan dbaas.Heartbeat, 4*heartbeatBatch)
	var stored sync.WaitGroup
	stored.Go(func() { m.storeHeartbeats(ctx, beats) })
	err := m.Transport.Serve(ctx, rpc.TopicHeartbeats, 8, func(ctx context.Context, e *rpc.Envelope) (any, error) {
		h, err := m.heartbeat(ctx, e)
		if err != nil {
			return nil, err
		}
		select {
		case beats <- *h:
		case <-ctx.Done():
		}
		return nil, nil
	})
	close(beats)
	stored.Wait()
	return err
}

func (m *Manager) heartbeat(ctx context.Context, e *rpc.Envelope) (*dbaas.Heartbeat, error) {
	var h *guest.Heartbeat
	err := guest.Keys(m.keys.key).Authentic(ctx, e.Sender, func(key []byte) (err error) {
		h, err = guest.VerifyHeartbeat(key, e)
		return err
	})
	if err != nil {
		if unbelieved(err) {
			m.Reports.Heartbeats("refused", 1)
			m.Logger.WarnContext(ctx, "a heartbeat is not believed", "guest", e.Sender, "error", err)
		}
		return nil, err
	}
	metrics, err := json.Marshal(h.Metrics)
	if err != nil {
		return nil, dbaas.WrapError(err, dbaas.BadRequest, "The heartbeat's metrics are not numbers.")
	}
	return &dbaas.Heartbeat{
		GuestID: e.Sender, BootID: e.BootID, Sequence: e.Sequence, SeenAt: dbaas.At(m.Clock.Now()),
		VolumeUsed: h.VolumeUsed, VolumeTotal: h.VolumeTotal, Metrics: string(metrics),
	}, nil
}

func (m *Manager) storeHeartbeats(ctx context.Context, beats <-chan dbaas.Heartbeat) {
	tick := time.NewTicker(heartbeatDelay)
	defer tick.Stop()
	var batch []dbaas.Heartbeat
	flush := func() {
		if len(batch) == 0 {
			return
		}
		storeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatTimeout)
		err := m.Store.RecordHeartbeats(storeCtx, batch)
		cancel()
		if err != nil {
			m.Logger.ErrorContext(ctx, "heartbeats not stored", "count", len(batch), "error", err)
		} else {
			m.Reports.Heartbeats("stored", len(batch))
		}
		batch = batch[:0]
	}
	for {
		select {
		case h, ok := <-beats:
			if !ok {
				flush()
				return
			}
			if batch = append(batch, h); len(batch) >= heartbeatBatch {
				flush()
			}
		case <-tick.C:
			flush()
		}
	}
}

// keyCache remembers the guests' message keys. One changes with a rebuild, by whichever taskmanager: one that does not fit is
// looked up again.
type keyCache struct {
	store *store.Store
	clock clock.Clock
	mu    sync.Mutex
	keys  map[string]knownKey
}

// knownKey is a key and when it was read.
type knownKey struct {
	key  []byte
	read time.Time
}

const (
	// keyCacheSize bounds the memory that keys take; beyond it the cache starts anew.
	keyCacheSize = 50_000
	// keyCacheCalm is for how long nobody asks the database again, whatever a guest sends that its key does not fit.
	keyCacheCalm = time.Second
)

func newKeyCache(s *store.Store, c clock.Clock) *keyCache {
	return &keyCache{store: s, clock: c, keys: map[string]knownKey{}}
}

// key gives a guest's message key, as [guest.Keys]; of a guest that is unknown or deleted, dbaas.Unauthorized.
func (c *keyCache) key(ctx context.Context, guestID string, refused []byte) ([]byte, error) {
	now := c.clock.Now()
	c.mu.Lock()
	known, ok := c.keys[guestID]
	c.mu.Unlock()
	if ok && (!bytes.Equal(known.key, refused) || now.Sub(known.read) < keyCacheCalm) {
		return known.key, nil
	}
	key, err := c.store.RevealSecret(ctx, guestID, control.SecretRPCKey)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil, dbaas.Errorf(dbaas.Unauthorized, "No guest %q is known.", guestID)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.keys) >= keyCacheSize {
		clear(c.keys)
	}
	c.keys[guestID] = knownKey{key, now}
	return key, nil
}

// forget drops the key of a guest that was deleted, or given another.
func (c *keyCache) forget(guestID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, guestID)
}
