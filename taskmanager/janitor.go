package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// Janitor says how the cloud is compared with the rows.
type Janitor struct {
	Every time.Duration // between two looks; 0: none, until somebody wants something deleted
	// Age is how long something must have been seen before it is told of, and before anything is done about it.
	Age time.Duration
	// Delete: orphans are deleted without being asked for.
	Delete bool
}

const (
	// janitorPoll is how often a taskmanager looks whether there is a pass to make.
	janitorPoll = 5 * time.Second
	// janitorLease is longer than a pass may take.
	janitorLease = 5 * time.Minute
	janitorPass  = 4 * time.Minute
	// lateFor is how long after an operation has ended a request of it that was thought lost may still make something, with a margin:
	// such a request is at most as old as the operation's last look at the cloud. While one has ended so lately, there is a pass every
	// lateEvery.
	lateFor   = 5 * time.Minute
	lateEvery = time.Minute
	// failedRest is how long nobody tries again after a pass that failed: a cloud in trouble is not asked for all it has over and over.
	failedRest = time.Minute
	// mostDeletions bounds what one pass deletes: the cloud has others to serve.
	mostDeletions = 100
	janitorName   = "janitor"
)

// TidyWhenDue makes a pass when it is time for one, when somebody wants something deleted, and when an operation has ended lately.
func (m *Manager) TidyWhenDue(ctx context.Context) error {
	due, err := m.tidyDue(ctx)
	if err != nil || !due {
		return err
	}
	return m.Tidy(ctx)
}

func (m *Manager) tidyDue(ctx context.Context) (bool, error) {
	wanted, err := m.Store.FindingsToDelete(ctx)
	if err != nil || wanted {
		return wanted, err
	}
	last, err := m.Store.LastDone(ctx, janitorName)
	if err != nil {
		return false, err
	}
	now, err := m.Store.Now(ctx)
	if err != nil {
		return false, err
	}
	switch since := now.Sub(last); {
	case m.Janitor.Every > 0 && since >= m.Janitor.Every:
		return true, nil
	case since < lateEvery:
		return false, nil
	}
	return m.Store.EndedSince(ctx, now.Add(-lateFor))
}

// Tidy compares all that is ours in the cloud and at the broker with the rows, both ways, unless another taskmanager is at it.
// What it asks of them does not depend on how many instances there are, nor on how much is wrong.
func (m *Manager) Tidy(ctx context.Context) (err error) {
	mine, err := m.Store.TakeLease(ctx, janitorName, m.Node, janitorLease)
	if err != nil || !mine {
		return err
	}
	began := m.Clock.Now()
	pass, cancel := context.WithTimeout(ctx, janitorPass)
	defer cancel()
	err = m.pass(pass)
	m.Tidiness.Pass(err == nil, m.Clock.Now().Sub(began))
	rest := time.Duration(0)
	if err != nil && ctx.Err() == nil {
		rest = failedRest
	}
	if ended := m.Store.EndLease(context.WithoutCancel(ctx), janitorName, m.Node, err == nil, rest); err == nil {
		err = ended
	}
	return err
}

func (m *Manager) pass(ctx context.Context) error {
	// The cloud first: whoever owns what is there has a row by then.
	began, err := m.Store.Now(ctx)
	if err != nil {
		return err
	}
	have, err := m.Cloud.Owned(ctx, "")
	if err != nil {
		return err
	}
	accounts, err := m.Accounts.List(ctx)
	if err != nil {
		return err
	}
	for _, id := range accounts {
		have = append(have, cloud.Resource{Kind: dbaas.KindBrokerAccount, ID: id, GuestID: id})
	}
	want, err := m.Store.Possessions(ctx, "")
	if err != nil {
		return err
	}
	there := present(have)
	found := disagreements(have, there, want)
	late, err := m.late(ctx, found, began)
	if err != nil {
		return err
	}
	reported, news, err := m.Store.RecordFindings(ctx, found, m.Janitor.Age)
	if err != nil {
		return err
	}
	m.tellFindings(ctx, reported, news)
	reported = slices.DeleteFunc(reported, func(f dbaas.Finding) bool {
		return f.Problem != dbaas.ProblemOrphan || f.DeleteAt.IsZero() && !m.Janitor.Delete
	})
	return m.deleteOrphans(ctx, append(late, reported...), there)
}

// late gives the orphans that are Grove's own beyond doubt, so that nobody needs to be asked: requests that were thought lost, and
// arrived after all, have made them. Either their owner lives and has another one of the kind, which its row names, or its rows were
// deleted before the look at the cloud began, when the cloud had nothing of it.
func (m *Manager) late(ctx context.Context, found []dbaas.Finding, began dbaas.Instant) (late []dbaas.Finding, err error) {
	var owners []string
	for _, f := range found {
		if f.Problem == dbaas.ProblemOrphan && f.InstanceID == "" {
			owners = append(owners, f.OwnerID)
		}
	}
	departed, err := m.Store.Departed(ctx, owners, began)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		if f.Problem == dbaas.ProblemOrphan && (f.InstanceID != "" || departed[f.OwnerID]) {
			f.DeleteBy = "arrived late"
			late = append(late, f)
		}
	}
	return late, nil
}

// claims is what rows say of the cloud.
type claims struct {
	*store.Possessions
	guests    map[string]*store.GuestPossession
	instances map[string]*store.InstancePossession
}

func claimsOf(want *store.Possessions) *claims {
	c := &claims{want, map[string]*store.GuestPossession{}, map[string]*store.InstancePossession{}}
	for i := range want.Guests {
		c.guests[want.Guests[i].ID] = &want.Guests[i]
	}
	for i := range want.Instances {
		c.instances[want.Instances[i].ID] = &want.Instances[i]
	}
	return c
}

// surplus is before what the cloud itself tells to be one too many.
const surplus = "surplus "

// present tells of each "kind id" whether the cloud has it, and whether it is one too many.
func present(have []cloud.Resource) map[string]bool {
	there := map[string]bool{}
	for _, r := range have {
		there[r.Kind+" "+r.ID] = true
		if r.Surplus {
			there[surplus+r.Kind+" "+r.ID] = true
		}
	}
	return there
}

// disagreements compares what there is with what rows say, but for that which an operation is at work on.
func disagreements(have []cloud.Resource, there map[string]bool, want *store.Possessions) []dbaas.Finding {
	c := claimsOf(want)
	found := c.missing(there)
	for _, r := range have {
		if f := c.orphan(r, there); f != nil {
			found = append(found, *f)
		}
	}
	return found
}

// orphan tells whether no row accounts for a resource. What carries the tag of a guest that lives is accounted for, unless the
// row names another one of its kind that is there: then it is one too many, which arrived late.
func (c *claims) orphan(r cloud.Resource, there map[string]bool) *dbaas.Finding {
	f := &dbaas.Finding{Problem: dbaas.ProblemOrphan, Kind: r.Kind, ResourceID: r.ID, OwnerID: r.GuestID}
	recorded := ""
	switch r.Kind {
	case cloud.KindServerGroup, cloud.KindPeersGroup:
		if c.Groups[r.GuestID] || c.Busy[r.GuestID] {
			return nil
		}
		return f
	case cloud.KindAddress, cloud.KindPublicAddress:
		in := c.instances[r.GuestID]
		if in == nil {
			break
		}
		f.InstanceID, f.ProjectID = in.ID, in.ProjectID
		if r.Kind == cloud.KindAddress {
			recorded = in.AddressID
		}
		if c.Busy[in.GroupID] {
			return nil
		}
	default:
		g := c.guests[r.GuestID]
		if g == nil {
			break
		}
		f.InstanceID, f.ProjectID, recorded = g.InstanceID, g.ProjectID, recordedBy(g)[r.Kind]
		if c.Busy[g.GroupID] {
			return nil
		}
	}
	switch {
	case c.Busy[r.GuestID] || c.Busy[f.InstanceID]:
		return nil
	case there[surplus+r.Kind+" "+r.ID]:
		return f
	case f.InstanceID != "" && (recorded == "" || recorded == r.ID || !there[r.Kind+" "+recorded]):
		return nil
	}
	return f
}

func recordedBy(g *store.GuestPossession) map[string]string {
	return map[string]string{cloud.KindServer: g.ServerID, cloud.KindVolume: g.VolumeID, cloud.KindPort: g.PortID}
}

// missing lists what rows name and the cloud does not have.
func (c *claims) missing(there map[string]bool) (found []dbaas.Finding) {
	add := func(kind, id, owner, instance, group, project string) {
		if id != "" && !there[kind+" "+id] && !c.Busy[instance] && !c.Busy[group] {
			found = append(found, dbaas.Finding{Problem: dbaas.ProblemMissing, Kind: kind, ResourceID: id, OwnerID: owner,
				InstanceID: instance, ProjectID: project})
		}
	}
	for i := range c.Guests {
		g := &c.Guests[i]
		add(cloud.KindServer, g.ServerID, g.ID, g.InstanceID, g.GroupID, g.ProjectID)
		add(cloud.KindVolume, g.VolumeID, g.ID, g.InstanceID, g.GroupID, g.ProjectID)
		add(cloud.KindPort, g.PortID, g.ID, g.InstanceID, g.GroupID, g.ProjectID)
	}
	for i := range c.Instances {
		in := &c.Instances[i]
		add(cloud.KindAddress, in.AddressID, in.ID, in.ID, in.GroupID, in.ProjectID)
	}
	return found
}

// tellFindings logs what is new and counts all of it.
func (m *Manager) tellFindings(ctx context.Context, reported, news []dbaas.Finding) {
	for _, f := range news {
		what := "nothing accounts for what is in the cloud"
		if f.Problem == dbaas.ProblemMissing {
			what = "the cloud lacks what an instance has"
		}
		m.Logger.WarnContext(ctx, what, "finding", f.ID, "kind", f.Kind, "resource", f.ResourceID, "owner", f.OwnerID, "instance", f.InstanceID)
	}
	counts := map[[2]string]int{}
	for _, f := range reported {
		counts[[2]string{string(f.Problem), f.Kind}]++
	}
	m.Tidiness.Findings(counts)
}

// deleteOrphans deletes orphans as delete does: what an owner has of one kind after the other, the server before what it holds.
func (m *Manager) deleteOrphans(ctx context.Context, orphans []dbaas.Finding, there map[string]bool) error {
	byOwner, tried := map[string][]dbaas.Finding{}, 0
	for _, f := range orphans {
		byOwner[f.OwnerID] = append(byOwner[f.OwnerID], f)
	}
	for _, owned := range byOwner {
		for _, c := range m.cleaners() {
			ofKind := slices.DeleteFunc(slices.Clone(owned), func(f dbaas.Finding) bool { return f.Kind != c.kind })
			for _, f := range ofKind {
				if tried++; tried > mostDeletions || ctx.Err() != nil {
					return ctx.Err() // the next pass goes on
				}
				if err := m.deleteOrphan(ctx, &f, there, c.delete); err != nil {
					return err
				}
			}
			if c.kind == cloud.KindServer && len(ofKind) > 0 {
				break // the rest is free when it is gone
			}
		}
	}
	return nil
}

// deleteOrphan deletes what is still an orphan: it may have been recorded, or an operation begun, since the look at the rows.
func (m *Manager) deleteOrphan(ctx context.Context, f *dbaas.Finding, there map[string]bool, del func(context.Context, cloud.Resource) error) error {
	r := cloud.Resource{Kind: f.Kind, ID: f.ResourceID, GuestID: f.OwnerID}
	now, err := m.Store.Possessions(ctx, f.OwnerID)
	if err != nil || claimsOf(now).orphan(r, there) == nil {
		return err
	}
	err = del(ctx, r)
	m.Tidiness.Deletion(f.Kind, err == nil)
	if err != nil {
		m.Logger.WarnContext(ctx, "orphan not deleted yet", "finding", f.ID, "kind", f.Kind, "resource", f.ResourceID, "error", err)
		return m.Store.SetFindingFailure(ctx, f.ID, err.Error())
	}
	by := f.DeleteBy
	if by == "" {
		by = janitorName
	}
	m.Logger.InfoContext(ctx, "orphan deleted", "finding", f.ID, "kind", f.Kind, "resource", f.ResourceID, "owner", f.OwnerID, "by", by)
	return nil // the finding goes when the cloud no longer shows it
}

// cleaner deletes resources of a kind.
type cleaner struct {
	kind   string
	delete func(ctx context.Context, r cloud.Resource) error
}

// cleaners are in the order in which delete_instance removes what there is.
func (m *Manager) cleaners() []cleaner {
	byID := func(del func(context.Context, string) error) func(context.Context, cloud.Resource) error {
		return func(ctx context.Context, r cloud.Resource) error { return del(ctx, r.ID) }
	}
	return []cleaner{
		{cloud.KindServer, byID(m.deleteServer)},
		{cloud.KindServerGroup, func(ctx context.Context, r cloud.Resource) error { return m.Cloud.DeleteServerGroup(ctx, r.GuestID) }},
		{cloud.KindVolume, byID(m.deleteVolume)},
		{cloud.KindPublicAddress, byID(m.Cloud.DeleteAddress)},
		{cloud.KindAddress, byID(m.Cloud.DeleteAddress)},
		{cloud.KindPort, byID(m.deletePort)},
		{cloud.KindSecurityGroup, byID(m.deleteSecurityGroup)},
		{cloud.KindPeersGroup, byID(m.deleteSecurityGroup)},
		{dbaas.KindBrokerAccount, func(ctx context.Context, r cloud.Resource) error {
			queue, err := m.Store.QueueOf(ctx, r.GuestID)
			if err != nil {
				return err
			}
			return m.Accounts.Delete(ctx, r.GuestID, queue)
		}},
	}
}
