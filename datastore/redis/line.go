package redis

import (
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
)

// lines are the connections to the other members of the group, kept from look to look: twice a second a login would cost
// more than the look.
type lines struct {
	mu   sync.Mutex // guards the fields below
	idle map[datastore.Endpoint]*line

	known *record // what the record was when it was read last
	file  fs.FileInfo
}

// line is a connection to another member.
type line struct {
	*redis.Client
	secret string // that it was made with
	trust  string // likewise
}

// peek is the record for those who only look, read anew when it has changed.
func (g *Guest) peek() (*record, error) {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	file, err := os.Stat(g.path(recordFile))
	l := &g.lines
	if err == nil && l.file != nil && os.SameFile(file, l.file) && file.ModTime().Equal(l.file.ModTime()) {
		return l.known, nil
	}
	r, err := g.require()
	if err == nil {
		l.known, l.file = r, file
	}
	return r, err
}

// call gives a line to another member, whom it belongs to until it hangs up.
func (g *Guest) call(r *record, peer datastore.Endpoint) *line {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	if l := g.lines.idle[peer]; l != nil && l.fits(r) {
		delete(g.lines.idle, peer)
		return l
	}
	at := r.reach(peer)
	return &line{secret: r.ReplicationSecret, trust: r.trust(), Client: redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(at.Address, strconv.Itoa(at.Port)), Dialer: g.dialPeer(r),
		Username: replicationUser, Password: r.ReplicationSecret, Protocol: 2, DisableIdentity: true, ConnMaxIdleTime: -1,
		PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DialTimeout: probeTimeout, ReadTimeout: probeTimeout, ContextTimeoutEnabled: true,
		ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10,
	})}
}

// fits tells whether a line was made as one would be made now.
func (l *line) fits(r *record) bool { return l.secret == r.ReplicationSecret && l.trust == r.trust() }

// hangUp keeps a line to a peer that answered, and closes all others: the library remembers failures.
func (g *Guest) hangUp(r *record, peer datastore.Endpoint, l *line, answered bool) {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	for known, idle := range g.lines.idle {
		if !idle.fits(r) || !slices.Contains(r.Desired.Peers, known) {
			_ = idle.Close()
			delete(g.lines.idle, known)
		}
	}
	if !answered || g.lines.idle[peer] != nil || !slices.Contains(r.Desired.Peers, peer) {
		_ = l.Close()
		return
	}
	if g.lines.idle == nil {
		g.lines.idle = map[datastore.Endpoint]*line{}
	}
	g.lines.idle[peer] = l
}

func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, idle := range l.idle {
		_ = idle.Close()
	}
	l.idle = nil
}
