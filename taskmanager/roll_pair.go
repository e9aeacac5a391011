package taskmanager

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// pairChange is a change of a hot standby that is one of its guests after the other: the standby first, then the old
// primary, once the standby has taken over from it.
type pairChange struct {
	child string // kind of the operation that changes one guest
	// left tells whether a guest has yet to be changed, by what is so now: a failover or a repair may come between.
	left func(ctx context.Context, s *subject, children []dbaas.Operation) (bool, error)
}

func (m *Manager) restartPair() engine.Workflow {
	r := pairChange{child: "restart_instance"}
	r.left = r.untilDone
	return m.rollPair("restart_pair", "Restarts the standby, has it take over, and restarts the old primary; pending configuration values take effect.", r,
		m.leavePair, "ACTIVE with the fault; a guest whose turn had not come is as before.")
}

func (m *Manager) rebuildPair() engine.Workflow {
	r := pairChange{child: "rebuild_instance"}
	r.left = r.untilDone
	return m.rollPair("rebuild_pair", "Gives the standby's server a new root disk and a new agent, has it take over, and does the same to the old primary's; "+
		"the volumes stay.", r, m.leavePair, "ACTIVE with the fault; the volumes are as they were, and a guest whose turn had not come is as before.")
}

func (m *Manager) resizePair() engine.Workflow {
	r := pairChange{child: "resize_flavor", left: m.ofOtherFlavor}
	return m.rollPair("resize_pair", "Moves the standby to the flavor, has it take over, and moves the old primary.", r,
		m.restoring(func(ctx context.Context, op *engine.Operation) error { return m.rollBack(ctx, op, r) }, m.markRolledBack),
		"ACTIVE with the fault, both guests on the old flavor again; where that takes too long the standby may have the other one.")
}

// ofOtherFlavor tells that a guest's server has not the flavor that the instance is to have. One that is gone needs none.
func (m *Manager) ofOtherFlavor(ctx context.Context, s *subject, _ []dbaas.Operation) (bool, error) {
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return server.FlavorID != s.instance.FlavorID || server.Status == cloud.ServerVerifyResize, nil
}

// rollBack brings the guests that were moved back to the old flavor, in the same way. What the change had begun ends first.
func (m *Manager) rollBack(ctx context.Context, op *engine.Operation, r pairChange) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if s.instance.FlavorID != s.instance.Applied.FlavorID {
		if err := m.endChildren(ctx, op); err != nil {
			return err
		}
		err := m.update(ctx, op, func(_ *store.Tx, s *subject) error {
			s.instance.FlavorID = s.instance.Applied.FlavorID
			return nil
		})
		if err != nil {
			return err
		}
	}
	return m.rollGuests(ctx, op, r, nobody)
}

func (m *Manager) markRolledBack(ctx context.Context, op *engine.Operation, _ bool) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	return m.keepServing(ctx, op, func(s *subject) { s.instance.FlavorID = s.instance.Applied.FlavorID })
}

// untilDone tells that no child has changed the guest yet.
func (r pairChange) untilDone(_ context.Context, s *subject, children []dbaas.Operation) (bool, error) {
	return !slices.ContainsFunc(children, func(c dbaas.Operation) bool {
		return c.Kind == r.child && c.Status == dbaas.OperationSucceeded && guestOf(&c) == s.guest.ID
	}), nil
}

// guestOf gives the guest that an operation is about.
func guestOf(op *dbaas.Operation) string {
	var about aboutGuest
	_ = json.Unmarshal(op.State, &about)
	return about.GuestID
}

func (m *Manager) rollPair(kind, doc string, r pairChange, failed func(context.Context, *engine.Operation) error, ended string) engine.Workflow {
	until := func(done func(left []member) bool) func(context.Context, *engine.Operation) error {
		return func(ctx context.Context, op *engine.Operation) error { return m.rollGuests(ctx, op, r, done) }
	}
	return engine.Workflow{
		Kind: kind, Doc: doc,
		Steps: []engine.Step{
			{Name: "changeStandby", Doc: "changing the standby", Run: until(noStandby), Within: 12 * time.Hour},
			{Name: "handOver", Doc: "handing over to the standby", Run: until(noPrimary), Within: 12 * time.Hour},
			{Name: "changeOldPrimary", Doc: "changing the old primary, which stands by", Run: until(nobody), Within: 12 * time.Hour},
			{Name: "awaitStandby", Doc: "waiting for the standby to be in step", Run: m.awaitFollowing, Within: 12 * time.Hour},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		ChildrenMayFail: true, // a hand-over is tried again
		Failed:          failed,
		Ended:           ended,
	}
}

func noStandby(left []member) bool {
	return !slices.ContainsFunc(left, func(m member) bool { return !m.primary() })
}
func noPrimary(left []member) bool { return !slices.ContainsFunc(left, member.primary) }
func nobody(left []member) bool    { return len(left) == 0 }

// rollGuests does what is next of a change, until those who are left are as wanted. Who is the primary, and who is left, is
// looked at each time.
func (m *Manager) rollGuests(ctx context.Context, op *engine.Operation, r pairChange, done func(left []member) bool) error {
	s, children, err := m.awaitChild(ctx, op)
	if err != nil {
		return err
	}
	var left []member
	for _, one := range s.own() {
		todo, err := r.left(ctx, s.on(one), children)
		if err != nil {
			return err
		}
		if todo {
			left = append(left, one)
		}
	}
	if done(left) {
		return nil
	}
	if err := failedTurn(op, s, children); err != nil {
		return err
	}
	next := left[0] // the standby first
	if next.primary() && !s.inPlace() {
		return m.switchOver(ctx, op, s, children)
	}
	if err := m.requirePrimary(ctx, op, s); err != nil {
		return err
	}
	return m.beginPart(ctx, op, r.child, func(*store.Tx) any { return aboutGuest{GuestID: next.guest.ID} })
}

// inPlace tells whether nobody could take over from the subject's guest, or nobody needs to.
func (s *subject) inPlace() bool { return s.instance.Stopped || len(s.own()) == 1 }

// awaitChild waits until nothing runs that the operation began, and gives all of that with the subject.
func (m *Manager) awaitChild(ctx context.Context, op *engine.Operation) (*subject, []dbaas.Operation, error) {
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return nil, nil, err
	}
	for i := range children {
		if !children[i].Status.Ended() {
			op.SetProgress("%s", m.doing(&children[i]))
			return nil, nil, engine.Wait(childPoll)
		}
	}
	s, err := m.load(ctx, op)
	return s, children, err
}

// failedTurn is the failure of a guest's turn, since this step of the operation or the last hand-over began. One that a
// failover took the ground from is none: the guest takes the writes now, and its turn comes again.
func failedTurn(op *engine.Operation, s *subject, children []dbaas.Operation) error {
	for _, c := range slices.Backward(children) {
		switch {
		case c.Kind == kindFailover || c.CreatedAt < op.StepSince:
			return nil
		case c.Status == dbaas.OperationSucceeded || guestOf(&c) == s.instance.PrimaryGuestID && !s.inPlace():
		case c.Failure != nil:
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "%s", c.Failure.Message))
		default:
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The operation %s (%s) did not succeed.", c.ID, c.Kind))
		}
	}
	return nil
}

// requirePrimary waits for a primary that serves, where there is a standby: nobody else could take over from a dead one.
func (m *Manager) requirePrimary(ctx context.Context, op *engine.Operation, s *subject) error {
	if s.inPlace() {
		return nil
	}
	reports := m.askAll(ctx, s.own())
	for _, other := range s.standbys() {
		if alive(reports[other.guest.ID]) && !alive(reports[s.instance.PrimaryGuestID]) {
			op.SetProgress("the primary does not serve")
			return later(op, readyPoll)
		}
	}
	return nil
}

// mostHandOvers is how often a hand-over is tried in one operation.
const mostHandOvers = 3

// switchOver has the standby take over, once it has caught up.
func (m *Manager) switchOver(ctx context.Context, op *engine.Operation, s *subject, children []dbaas.Operation) error {
	failed := 0
	for _, c := range children {
		if c.Kind != kindFailover || c.Status == dbaas.OperationSucceeded || c.CreatedAt < op.StepSince {
			continue
		}
		if failed++; failed == mostHandOvers && c.Failure != nil {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "%s", c.Failure.Message))
		}
	}
	following, copying := m.following(ctx, s)
	if !following {
		if !copying && quiet(op, children) > lostAfter {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The standby does not come in step with the primary, which was not touched."))
		}
		op.SetProgress("the standby is not in step yet")
		return later(op, readyPoll)
	}
	return m.beginPart(ctx, op, kindFailover, func(tx *store.Tx) any {
		return control.FailoverState{Planned: true, From: s.instance.PrimaryGuestID, Cause: "The instance is changed guest by guest.", DetectedAt: tx.Now()}
	})
}

// quiet is how long the operation has been in its step with nothing at work that it began.
func quiet(op *engine.Operation, children []dbaas.Operation) time.Duration {
	since := op.StepSince
	for _, c := range children {
		since = max(since, c.EndedAt)
	}
	return op.UpdatedAt.Sub(since)
}

// following tells whether a standby of the subject's instance is in step, and whether one is on its way there.
func (m *Manager) following(ctx context.Context, s *subject) (following, copying bool) {
	reports := m.askAll(ctx, s.own())
	for _, other := range s.standbys() {
		r := reports[other.guest.ID]
		if r == nil {
			continue
		}
		following = following || inStepNow(r)
		if place := control.ReplicationIn(r.Status.Observed); place != nil && place.Syncing {
			copying = true
		}
	}
	return following, copying
}

// beginPart begins an operation about the same instance, which this one publishes.
func (m *Manager) beginPart(ctx context.Context, op *engine.Operation, kind string, state func(*store.Tx) any) error {
	var id string
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		id, err = beginChild(tx, op, kind, op.ResourceID, func(*store.Tx, *dbaas.Instance) (any, error) { return state(tx), nil })
		return err
	})
	if err != nil {
		return err
	}
	m.nudgeAll([]string{id})
	return engine.Wait(childPoll)
}

// awaitFollowing waits until the standby is in step. One that does not come to it is repaired by the watch.
func (m *Manager) awaitFollowing(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || s.inPlace() {
		return err
	}
	following, copying := m.following(ctx, s)
	if following || !copying && inStep(op) > lostAfter {
		return nil
	}
	op.SetProgress("the standby is not in step yet")
	return later(op, readyPoll)
}

// leavePair ends a change that failed: what it had begun ends first, and each guest is as that left it.
func (m *Manager) leavePair(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	return m.keepServing(ctx, op, nil)
}

// partial tells whether the operation is about one guest of an instance that a larger operation changes: that one
// publishes the instance.
func partial(op *engine.Operation) bool {
	return op.ParentID != "" && guestOf(&op.Operation) != ""
}

// overtaken tells whether a failover has made the guest of a partial operation the primary: it must not be stopped now.
func overtaken(op *engine.Operation, s *subject) bool {
	return partial(op) && member{s.instance, s.guest}.primary() && !s.inPlace()
}

func errOvertaken() error {
	return engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The guest takes the instance's writes now."))
}
