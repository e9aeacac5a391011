package taskmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) setTLS() engine.Workflow {
	return engine.Workflow{
		Kind: "set_tls",
		Doc:  "Changes how clients reach the databases of a group, and these each other: both ways are open everywhere before one of them is shut. Who is connected stays so.",
		Steps: []engine.Step{
			{Name: "turnOn", Doc: "having the members of a cluster that speaks no TLS understand it", Run: m.turnOn, Within: 15 * time.Minute},
			{Name: "openBoth", Doc: "opening both ways in", Run: m.openBoth, Within: 15 * time.Minute},
			{Name: "markBoth", Doc: "noting that both ways are open", Run: m.markBoth, Within: 5 * time.Minute},
			{Name: "turnOff", Doc: "having the members of a cluster that is to leave TLS speak plain again", Run: m.turnOff, Within: 15 * time.Minute},
			{Name: "applyTLS", Doc: "keeping the ways in that are wished for", Run: m.applyTLS, Within: 15 * time.Minute},
			{Name: "markTLS", Doc: "publishing the change", Run: m.markTLS, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreTLS, m.keepTLS),
		Ended:  "ACTIVE with the fault and the ways in that were open before.",
	}
}

func (m *Manager) renewCertificates() engine.Workflow {
	return engine.Workflow{
		Kind: "renew_certificates",
		Doc:  "Gives every database of the group a new key and certificate. Who is connected stays so.",
		Steps: []engine.Step{
			{Name: "pushCertificates", Doc: "giving the databases new certificates", Run: m.pushCertificates, Within: 30 * time.Minute},
			{Name: "markRenewed", Doc: "publishing the change", Run: m.endTLS, Within: 5 * time.Minute},
		},
		Failed: m.endTLS,
		Ended:  "ACTIVE with the fault; who was not reached keeps its old certificate, and it is tried again.",
	}
}

// way is how the members of a group are reached, and reach each other, at one time.
type way struct {
	mode    dbaas.TLSMode
	turning bool
}

// ways lead a cluster from one mode to another and back. Members that are one of them apart work with each other; those
// further apart may not.
var ways = [...]way{{dbaas.TLSOff, false}, {dbaas.TLSOff, true}, {dbaas.TLSBoth, true}, {dbaas.TLSBoth, false}, {dbaas.TLSOn, false}}

// wayOf is where a mode is on them.
func wayOf(mode dbaas.TLSMode) int { return slices.Index(ways[:], way{mode: mode.OrOff()}) }

// tlsState adds what the steps pass on to what the request left.
type tlsState struct {
	control.TLSState
	// Way is where the members are led, and some may have come already; nil: nobody has been told anything.
	Way *int `json:"way,omitempty"`
	// Epoch is the group's in which Done was true: a failover tells databases what the rows say.
	Epoch int64         `json:"epoch,omitempty"`
	Done  []string      `json:"done,omitempty"` // guests that have come
	Told  dbaas.Instant `json:"told,omitempty"` // when the last one came
	// Missed are guests that do not answer: they come when they are back, however far the others are by then.
	Missed []string `json:"missed,omitempty"`
	Back   bool     `json:"back,omitempty"` // the change has failed, and the members are led back
}

// loadGroup reads the subject of an operation of an instance or a cluster, with any member of the group in its middle.
func (m *Manager) loadGroup(ctx context.Context, op *engine.Operation) (*subject, error) {
	if op.ResourceType != "cluster" {
		return m.load(ctx, op)
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return nil, err
	}
	if len(c.members) == 0 {
		return nil, engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The cluster has no members."))
	}
	return c.on(c.members[0]), nil
}

// turnOn leads a cluster whose members speak no TLS to where all of them understand it.
func (m *Manager) turnOn(ctx context.Context, op *engine.Operation) error {
	return m.turn(ctx, op, func(s *tlsState) bool { return !s.Previous.Encrypted() }, wayOf(dbaas.TLSOff)+1, wayOf(dbaas.TLSBoth)-1)
}

// turnOff leads a cluster that is to leave TLS to where none of its members speaks it.
func (m *Manager) turnOff(ctx context.Context, op *engine.Operation) error {
	return m.turn(ctx, op, func(s *tlsState) bool { return !s.Mode.Encrypted() }, wayOf(dbaas.TLSBoth)-1, wayOf(dbaas.TLSOff)+1)
}

// turn leads a cluster along the ways from one to another.
func (m *Manager) turn(ctx context.Context, op *engine.Operation, wanted func(*tlsState) bool, from, to int) error {
	var state tlsState
	if err := op.Load(&state); err != nil || op.ResourceType != "cluster" || !wanted(&state) {
		return err
	}
	for _, next := range toward(from, to) {
		if state.Way == nil || (*state.Way-next)*(to-from) <= 0 { // not beyond it yet
			if err := m.lead(ctx, op, &state, next); err != nil {
				return err
			}
		}
	}
	return nil
}

// toward lists the numbers from one to another, in that direction.
func toward(from, to int) []int {
	list := []int{from}
	for from != to {
		if from < to {
			from++
		} else {
			from--
		}
		list = append(list, from)
	}
	return list
}

// openBoth opens the way in that is not open.
func (m *Manager) openBoth(ctx context.Context, op *engine.Operation) error {
	var state tlsState
	if err := op.Load(&state); err != nil || state.Previous.OrOff() == dbaas.TLSBoth {
		return err
	}
	return m.lead(ctx, op, &state, wayOf(dbaas.TLSBoth))
}

// applyTLS goes from both ways to the one that is wished for.
func (m *Manager) applyTLS(ctx context.Context, op *engine.Operation) error {
	var state tlsState
	if err := op.Load(&state); err != nil || state.Mode == dbaas.TLSBoth {
		return err
	}
	return m.lead(ctx, op, &state, wayOf(state.Mode))
}

// lead makes the databases of the group come to the next of the ways, one at a run. That they are on it is noted first.
func (m *Manager) lead(ctx context.Context, op *engine.Operation, state *tlsState, to int) error {
	s, err := m.loadGroup(ctx, op)
	if err != nil {
		return err
	}
	if state.Way == nil || *state.Way != to || state.Epoch != s.group.Epoch {
		state.Way, state.Epoch, state.Done = &to, s.group.Epoch, nil
		return again(op, state)
	}
	members := s.inOrder(ways[to])
	i := slices.IndexFunc(members, func(one member) bool { return !slices.Contains(state.Done, one.guest.ID) })
	if i < 0 {
		return m.awaitHeard(ctx, op, state)
	}
	if err := m.speakOrMiss(ctx, op, s.on(members[i]), ways[to], state, state.deed(op.Step)); err != nil {
		return refused(err)
	}
	if state.Told, err = m.Store.Now(ctx); err != nil {
		return err
	}
	state.Done = append(state.Done, members[i].guest.ID)
	op.SetProgress("%d of %d databases", len(state.Done), len(members))
	return again(op, state)
}

// speakOrMiss has one database speak in a way. One that does not answer, and can be done without, is noted as missed.
func (m *Manager) speakOrMiss(ctx context.Context, op *engine.Operation, s *subject, to way, state *tlsState, deed string) error {
	id := s.guest.ID
	missed, err := m.misses(ctx, op, s, state.Missed)
	if err != nil {
		return err
	}
	state.Missed = slices.DeleteFunc(state.Missed, func(other string) bool { return other == id })
	if !missed {
		return m.speak(ctx, op, s, to, deed)
	}
	if state.Missed = append(state.Missed, id); len(state.Missed) == len(s.up()) {
		return later(op, agentPoll) // somebody must know it
	}
	return nil
}

// deed names what is done to a database: the same is done once.
func (s *tlsState) deed(step string) string {
	if s.Back {
		return fmt.Sprintf("back%d", *s.Way)
	}
	return fmt.Sprintf("way%d.%s", *s.Way, step)
}

// awaitHeard waits until the members of a cluster know from each other what they have been told. They send clients where
// they have heard that others are; and they connect anew to a member whose port is another, which might not succeed while
// some understand TLS and some do not.
func (m *Manager) awaitHeard(ctx context.Context, op *engine.Operation, state *tlsState) error {
	if op.ResourceType != "cluster" {
		return nil
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	r, err := m.reach(ctx, c, clusterFence(op, c))
	if err != nil {
		return err
	}
	now, err := m.Store.Now(ctx)
	if err != nil {
		return err
	}
	heard, err := r.topology.Heard(ctx, r.wish, r.members, now.Sub(state.Told))
	if err != nil || heard {
		return err
	}
	op.SetProgress("waiting until the members have heard of each other")
	return engine.Wait(convergeSoon)
}

// again keeps the state and runs the step once more.
func again(op *engine.Operation, state any) error {
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0)
}

// inOrder gives the members in the order in which they are to change. As soon as the writers speak TLS their followers
// come so, and before the writers stop they leave it. A cluster's replicas make themselves ready before their masters say
// that they have another port.
func (s *subject) inOrder(to way) []member {
	members := s.up()
	if !to.mode.Encrypted() || s.instance.ClusterID != "" {
		slices.Reverse(members)
	}
	return members
}

// speak makes one database speak in a way, with a new certificate when it speaks TLS.
func (m *Manager) speak(ctx context.Context, op *engine.Operation, s *subject, to way, deed string) error {
	in := *s.instance
	in.TLS = to.mode
	at := s.on(member{&in, s.guest})
	desired, err := m.desired(ctx, at)
	if err != nil {
		return err
	}
	if to.turning {
		if desired.TLS == nil {
			desired.TLS = &datastore.TLS{Mode: to.mode}
		}
		desired.TLS.Turning = true
	}
	// A failover in between may have told the database otherwise: after it the deed is another.
	request := guest.ConfigureRequest{Fence: fence(op, at, fmt.Sprintf("%s.%d", deed, s.group.Epoch)), Desired: desired}
	if to.mode.Encrypted() {
		pair, err := m.issue(ctx, at)
		if err != nil {
			return err
		}
		if request.Sealed, err = guest.SealSecrets(at.guest.PublicKey, map[string]string{datastore.SecretTLSKey: pair}); err != nil {
			return err
		}
	}
	_, err = m.agent(at).Configure(ctx, request)
	return err
}

// markBoth notes that both ways are open on all members: a failover, or a member that is provisioned anew, comes so.
func (m *Manager) markBoth(ctx context.Context, op *engine.Operation) error {
	return m.noteTLS(ctx, op, dbaas.TLSBoth)
}

// noteTLS writes how the members of the group are reached.
func (m *Manager) noteTLS(ctx context.Context, op *engine.Operation, mode dbaas.TLSMode) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		members, err := tx.GroupMembers(op.GroupID)
		if err != nil {
			return err
		}
		for i := range members {
			members[i].TLS = mode
			if err := tx.UpdateInstance(&members[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *Manager) markTLS(ctx context.Context, op *engine.Operation) error {
	var state tlsState
	if err := op.Load(&state); err != nil {
		return err
	}
	if err := m.noteTLS(ctx, op, state.Mode); err != nil {
		return err
	}
	return m.endTLS(ctx, op)
}

// endTLS makes the operation's resource idle again, with its fault when it has failed.
func (m *Manager) endTLS(ctx context.Context, op *engine.Operation) error {
	var state tlsState
	if err := op.Load(&state); err != nil {
		return err
	}
	if err := m.noteMissed(ctx, op, state.Missed); err != nil {
		return err
	}
	if op.ResourceType == "cluster" {
		if op.Failure != nil {
			return m.keepCluster(ctx, op)
		}
		return m.markCluster(ctx, op)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), op.Failure
		return nil
	})
}

// restoreTLS has every member speak as before: a cluster's go back the way that they came.
func (m *Manager) restoreTLS(ctx context.Context, op *engine.Operation) error {
	var state tlsState
	if err := op.Load(&state); err != nil || state.Way == nil {
		return err
	}
	at, to := *state.Way, wayOf(state.Previous)
	next := to
	if op.ResourceType == "cluster" {
		next = toward(at, to)[min(1, max(at-to, to-at))]
	}
	if state.Back { // where they are led now was chosen here
		if err := m.lead(ctx, op, &state, at); err != nil || at == to {
			return err
		}
	}
	state.Back = true
	return m.lead(ctx, op, &state, next)
}

// keepTLS notes how the members are reached after a failure: as before, or, where they could not be told, as last.
func (m *Manager) keepTLS(ctx context.Context, op *engine.Operation, restored bool) error {
	var state tlsState
	if err := op.Load(&state); err != nil {
		return err
	}
	if restored {
		if err := m.noteTLS(ctx, op, state.Previous); err != nil {
			return err
		}
	}
	return m.endTLS(ctx, op)
}

func (m *Manager) pushCertificates(ctx context.Context, op *engine.Operation) error {
	s, err := m.loadGroup(ctx, op)
	if err != nil {
		return err
	}
	if !s.instance.TLS.Encrypted() {
		return engine.Permanent(dbaas.Errorf(dbaas.BadRequest, "The instance has no certificate: its tls is off."))
	}
	var state tlsState
	if err := op.Load(&state); err != nil {
		return err
	}
	members := s.up()
	i := slices.IndexFunc(members, func(one member) bool { return !slices.Contains(state.Done, one.guest.ID) })
	if i < 0 {
		return nil
	}
	if err := m.speakOrMiss(ctx, op, s.on(members[i]), way{mode: s.instance.TLS}, &state, "renew"); err != nil {
		return refused(err)
	}
	state.Done = append(state.Done, members[i].guest.ID)
	op.SetProgress("%d of %d databases", len(state.Done), len(members))
	return again(op, state)
}

const (
	// certificateLife is how long a certificate is good for; a third of it before the end it is renewed.
	certificateLife = 90 * 24 * time.Hour
	renewBefore     = certificateLife / 3
	renewInterval   = time.Hour
)

// certificateNames are what the subject's database is known by: the guest's own address, where the members of its group
// come, the instance's, which may lead to another guest tomorrow, and ids for clients that reach it by a name of their own.
func certificateNames(s *subject) []string {
	names := []string{s.instance.ID}
	if s.instance.ClusterID != "" {
		names = append(names, s.instance.ClusterID)
	}
	if s.guest.Address != "" {
		names = append(names, s.guest.Address)
	}
	for _, a := range s.instance.Addresses {
		if !slices.Contains(names, a.Address) {
			names = append(names, a.Address)
		}
	}
	return names
}

// issue makes a key and a certificate for the subject's database. They are kept nowhere here: they go to the guest, sealed.
func (m *Manager) issue(ctx context.Context, s *subject) (string, error) {
	ca, err := control.ReadAuthorities(ctx, m.Store, m.Clock)
	if err != nil {
		return "", err
	}
	pair, err := ca.Signs.Issue(certificateNames(s), m.Clock.Now(), certificateLife)
	return string(pair), err
}

// tlsWish is how the subject's database is reached; nil: plain.
func (m *Manager) tlsWish(ctx context.Context, s *subject) (*datastore.TLS, error) {
	if !s.instance.TLS.Encrypted() {
		return nil, nil
	}
	ca, err := control.ReadAuthorities(ctx, m.Store, m.Clock)
	if err != nil {
		return nil, err
	}
	return &datastore.TLS{Mode: s.instance.TLS, CA: ca.Certificate()}, nil
}

// RenewDue begins the renewal of certificates that expire soon, lack a name that their database has now, or are not of the
// authority that signs now. A group that is busy or stopped waits for the next time. An authority near its end is replaced.
func (m *Manager) RenewDue(ctx context.Context) error {
	views, err := m.Store.Encrypted(ctx)
	if err != nil || len(views) == 0 {
		return err
	}
	switch said, err := control.RotateAuthority(ctx, m.Store, m.Clock, true); {
	case err == nil:
		m.Logger.InfoContext(ctx, "authority of databases rotated", "said", said)
	case dbaas.ErrorCode(err) != dbaas.Conflict:
		return err
	}
	ca, err := control.ReadAuthorities(ctx, m.Store, m.Clock)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := range views {
		v := &views[i]
		if seen[v.GroupID] || !m.certificateDue(v, ca) {
			continue
		}
		seen[v.GroupID] = true
		if err := m.beginRenewal(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) certificateDue(v *dbaas.InstanceView, ca *control.Authorities) bool {
	soon := m.Clock.Now().Add(renewBefore)
	for i := range v.Guests {
		c := control.CertificateIn(v.Guests[i].Observed)
		if c == nil {
			continue
		}
		for _, name := range certificateNames(&subject{instance: &v.Instance, guest: &v.Guests[i]}) {
			if !slices.Contains(c.Names, name) {
				return true
			}
		}
		if c.NotAfter.Before(soon) || !ca.Fits(c) {
			return true
		}
	}
	return false
}

func (m *Manager) beginRenewal(ctx context.Context, v *dbaas.InstanceView) error {
	var id string
	err := m.Store.Tx(ctx, func(tx *store.Tx) error {
		members, err := tx.GroupMembers(v.GroupID)
		if err != nil {
			return err
		}
		op := &dbaas.Operation{
			Kind: "renew_certificates", ProjectID: v.ProjectID, ResourceType: "instance", ResourceID: v.ID, GroupID: v.GroupID,
			State: json.RawMessage("{}"), Actor: "watch",
		}
		locks := []string{v.GroupID, v.ID}
		if v.ClusterID != "" {
			op.ResourceType, op.ResourceID = "cluster", v.ClusterID
			locks = append(locks, v.ClusterID)
		}
		for _, one := range members {
			locks = append(locks, one.ID)
			if !one.Task.Idle() || one.Stopped {
				return nil
			}
		}
		err = tx.Enqueue(op, locks...)
		id = op.ID
		return err
	})
	return m.watch.began(ctx, id, err)
}
