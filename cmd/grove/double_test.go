package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/api/wire"
)

// double is a small Grove in memory: real HTTP and the real wire types, with operations that take one step per
// question. What a name begins with tells how its operations go: "slow" never ends, "broken" fails.
type double struct {
	mu         sync.Mutex
	next       int
	instances  []*wire.Instance
	groups     []*wire.Configuration
	clusters   []*wire.Cluster
	operations []*wire.Operation
	answers    map[string][]byte // by idempotency key: to repeat
	roots      map[string]bool
	users      []wire.User
	findings   []wire.Finding

	// Failure switches, set by names of instances that are created: see create.
	dropped map[string]bool // connections cut after the work was done, once per key
	busy    int             // GETs to answer with 503 first
	keys    []string        // idempotency keys in the order of arrival
}

const doublePassword = "s3cret-of-the-double"

func newDouble() *double {
	d := &double{answers: map[string][]byte{}, roots: map[string]bool{}, dropped: map[string]bool{}}
	d.findings = []wire.Finding{
		{ID: "finding-1", Problem: "orphan", Kind: "server", ResourceID: "server-1", OwnerID: "guest-1", Since: doubleTime()},
		{ID: "finding-2", Problem: "missing", Kind: "volume", ResourceID: "volume-2", OwnerID: "guest-2", InstanceID: "instance-2", Since: doubleTime()},
	}
	return d
}

// id makes the next id: they count, so that golden files can have them.
func (d *double) id() string {
	d.next++
	return fmt.Sprintf("00000000-0000-7000-8000-%012d", d.next)
}

func doubleTime() wire.Time { return wire.Time{Time: time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC)} }

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set(wire.HeaderRequestID, "req-00000000-0000-0000-0000-00000000cafe")
	w.Header().Set("Content-Type", "application/json")
	project, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1.0/"), "/")
	switch {
	case !ok || project == "":
		d.fault(w, 404, "itemNotFound", "There is nothing here.")
		return
	case project == "private" && r.Header.Get("X-Auth-Token") != "the-token":
		d.fault(w, 401, "error", "The request you have made requires authentication.")
		return
	case r.Method == http.MethodGet && d.busy > 0:
		d.busy--
		w.Header().Set("Retry-After", "1")
		d.fault(w, 503, "serviceUnavailable", "Not now.")
		return
	}
	if r.URL.Query().Get("dry_run") == "true" {
		d.answer(w, wire.DryRunEnvelope{DryRun: wire.DryRun{
			Operation: "some_change", Resources: []string{}, Steps: []string{"waiting for the guest agent", "restarting the database"},
			Effects: []string{"Connections are cut."}, OnFailure: "ACTIVE with the fault.",
		}})
		return
	}
	if key := r.Header.Get(wire.HeaderIdempotencyKey); r.Method == http.MethodPost {
		d.keys = append(d.keys, key)
		if answer, known := d.answers[key]; known {
			_, _ = w.Write(answer)
			return
		}
	}
	d.route(w, r, strings.Split(rest, "/"))
}

func (d *double) route(w http.ResponseWriter, r *http.Request, path []string) {
	switch r.Method + " " + pattern(path) {
	case "GET datastores":
		d.answer(w, wire.DatastoreList{Datastores: []wire.Datastore{doubleDatastore()}})
	case "GET datastores/*":
		d.answer(w, wire.DatastoreEnvelope{Datastore: doubleDatastore()})
	case "GET datastores/*/versions":
		d.answer(w, wire.VersionList{Versions: doubleDatastore().Versions})
	case "GET datastores/versions/*":
		v := doubleDatastore().Versions[0]
		v.Datastore = doubleDatastore().ID
		d.answer(w, wire.VersionEnvelope{Version: v})
	case "GET datastores/versions/*/parameters":
		d.answer(w, wire.ParameterList{Parameters: doubleParameters()})
	case "GET datastores/versions/*/parameters/*":
		for _, p := range doubleParameters() {
			if p.Name == path[4] {
				d.answer(w, p)
				return
			}
		}
		d.fault(w, 404, "itemNotFound", "There is no parameter "+path[4]+".")
	case "GET flavors":
		d.answer(w, wire.FlavorList{Flavors: doubleFlavors()})
	case "GET flavors/*":
		n, _ := strconv.Atoi(path[1])
		d.answer(w, wire.FlavorEnvelope{Flavor: doubleFlavors()[n-1]})
	case "GET instances":
		page, links := cut(r, d.instances, func(i *wire.Instance) string { return i.ID })
		d.answer(w, map[string]any{"instances": page, "links": links})
	case "POST instances":
		d.create(w, r)
	case "GET ca":
		d.answer(w, wire.CAEnvelope{CA: wire.CA{Certificate: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}})
	case "GET limits":
		d.answer(w, wire.LimitList{Limits: []any{
			map[string]any{"verb": "ABSOLUTE", "max_instances": 100, "max_volumes": 1000, "max_backups": 50, "max_ram": -1},
			wire.RateLimit{Verb: "POST", URI: "*", Value: 200, Remaining: 199, Unit: "MINUTE"},
		}})
	case "GET mgmt/quotas/*":
		d.answer(w, wire.QuotaList{Quotas: []wire.Quota{{Resource: "instances", InUse: len(d.instances), Limit: 100}, {Resource: "ram", Limit: -1}}})
	case "PUT mgmt/quotas/*":
		var body struct {
			Quotas map[string]int `json:"quotas"`
		}
		read(r, &body)
		d.answer(w, wire.QuotaLimits{Quotas: body.Quotas})
	case "GET mgmt/findings":
		d.answer(w, wire.FindingList{Findings: d.findings})
	case "POST mgmt/findings/action":
		var body wire.FindingsAction
		read(r, &body)
		for i := range d.findings {
			f := &d.findings[i]
			f.ToBeDeleted = f.Problem == "orphan" && (body.Delete.All || slices.Contains(body.Delete.Findings, f.ID))
		}
		w.WriteHeader(202)
	case "GET configurations":
		page, links := cut(r, d.groups, func(g *wire.Configuration) string { return g.ID })
		d.answer(w, map[string]any{"configurations": page, "links": links})
	case "POST configurations":
		d.createGroup(w, r)
	case "GET operations":
		all := slices.Clone(d.operations)
		slices.Reverse(all)
		page, links := cut(r, all, nil)
		d.answer(w, map[string]any{"operations": page, "links": links})
	case "GET events":
		d.answer(w, wire.EventList{Events: []wire.Event{{
			ID: "00000000-0000-7000-8000-00000000e001", Kind: "instance.create_instance.accepted", Message: "Accepted create_instance.",
			ResourceType: "instance", ResourceID: r.URL.Query().Get("resource_id"), Actor: "demo", Created: doubleTime(),
		}}})
	case "GET mgmt/instances":
		var all []wire.MgmtInstance
		for _, i := range d.instances {
			all = append(all, wire.MgmtInstance{Instance: *i, Agents: []wire.MgmtAgent{{GuestID: "guest-of-" + i.Name, Version: "1.3", Primary: true, SeenAt: doubleTime()}}})
		}
		d.answer(w, wire.MgmtInstanceList{Instances: all})
	case "POST mgmt/instances/*/upgrade":
		n := slices.IndexFunc(d.instances, func(i *wire.Instance) bool { return i.ID == path[2] })
		if n < 0 {
			d.fault(w, 404, "itemNotFound", "Instance "+path[2]+" not found.")
			return
		}
		var body wire.UpgradeAgentEnvelope
		read(r, &body)
		if d.instances[n].Name == "busy" || len(body.Upgrade.Metadata.SHA256) != 64 {
			d.fault(w, 422, "unprocessableEntity", "Instance "+path[2]+" is busy: restart_instance runs.")
			return
		}
		d.accept(w, d.enqueue("upgrade_agent", d.instances[n]))
	case "GET clusters":
		d.answer(w, map[string]any{"clusters": d.clusters})
	case "POST clusters":
		d.createCluster(w, r)
	default:
		d.routeOne(w, r, path)
	}
}

// pattern replaces what are ids and names in a path.
func pattern(path []string) string {
	p := slices.Clone(path)
	words := []string{"datastores", "versions", "parameters", "flavors", "instances", "limits", "mgmt", "quotas",
		"configurations", "operations", "events", "action", "root", "users", "databases", "credentials", "configuration",
		"clusters", "ca", "upgrade", "findings"}
	for i := range p {
		if !slices.Contains(words, p[i]) {
			p[i] = "*"
		}
	}
	return strings.Join(p, "/")
}

func (d *double) routeOne(w http.ResponseWriter, r *http.Request, path []string) {
	if len(path) < 2 {
		d.fault(w, 404, "itemNotFound", "There is no "+r.Method+" "+strings.Join(path, "/")+".")
		return
	}
	for _, i := range d.instances {
		if path[0] == "instances" && i.ID == path[1] {
			d.instance(w, r, i, pattern(path[2:]))
			return
		}
	}
	for _, cl := range d.clusters {
		if path[0] == "clusters" && cl.ID == path[1] {
			d.cluster(w, r, cl, pattern(path[2:]))
			return
		}
	}
	for _, g := range d.groups {
		if path[0] == "configurations" && g.ID == path[1] {
			d.group(w, r, g, pattern(path[2:]))
			return
		}
	}
	for _, o := range d.operations {
		if path[0] == "operations" && o.ID == path[1] {
			d.operation(w, r, o, pattern(path[2:]))
			return
		}
	}
	d.fault(w, 404, "itemNotFound", fmt.Sprintf("%s %s not found.", path[0], path[1]))
}

func (d *double) create(w http.ResponseWriter, r *http.Request) {
	var body wire.CreateInstanceRequest
	read(r, &body)
	n := body.Instance
	if len(n.ReplicaOf) > 0 {
		d.replicate(w, n)
		return
	}
	if n.Volume == nil {
		d.fault(w, 400, "badRequest", "instance.volume is missing: this datastore needs a volume.")
		return
	}
	size, _ := n.Volume.Size.Int()
	region := "local"
	i := &wire.Instance{
		ID: d.id(), Name: n.Name, Status: "BUILD", Datastore: wire.DatastoreRef{Type: "redis", Version: "7.0", VersionNumber: "7.0.15"},
		Flavor: wire.Resource{ID: string(n.FlavorRef)}, Volume: &wire.Volume{Size: size}, Region: &region,
		InstanceDetail: &wire.InstanceDetail{Created: doubleTime(), Updated: doubleTime(), DeletionProtection: n.DeletionProtection},
	}
	d.instances = append(d.instances, i)
	op := d.enqueue("create_instance", i)
	i.Operation = &op.OperationSummary
	shown := *i
	detail := *i.InstanceDetail
	detail.Password = doublePassword
	shown.InstanceDetail = &detail
	w.Header().Set(wire.HeaderOperation, op.ID)
	w.Header().Add("Warning", `299 grove "The key \"flavour\" is not known; did you mean \"flavorRef\"?"`)
	answer, _ := json.Marshal(wire.InstanceEnvelope{Instance: shown})
	key := r.Header.Get(wire.HeaderIdempotencyKey)
	d.answers[key] = answer
	if strings.HasPrefix(n.Name, "cut") && !d.dropped[key] {
		d.dropped[key] = true
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(answer)
}

// enqueue starts an operation of three steps.
func (d *double) enqueue(kind string, i *wire.Instance) *wire.Operation {
	op := &wire.Operation{
		OperationSummary: wire.OperationSummary{ID: d.id(), Kind: kind, Status: "running", Step: "ensureVolume", StepNumber: 1, StepTotal: 3},
		ResourceType:     "instance", ResourceID: i.ID, Attempt: 1, Actor: "demo", Created: doubleTime(), Updated: doubleTime(),
	}
	d.operations = append(d.operations, op)
	return op
}

// advance takes an operation one step on.
func (d *double) advance(o *wire.Operation, i *wire.Instance) {
	steps := []string{"ensureVolume", "ensureServer", "awaitReady"}
	if o.Status != "running" {
		return
	}
	if i != nil && strings.HasPrefix(i.Name, "slow") {
		o.Progress = "waiting for the volume"
		return
	}
	o.Steps = append(o.Steps, wire.OperationStep{Kind: o.Kind, Step: o.Step, Attempt: 1, Started: doubleTime(), Ended: doubleTime(), Seconds: 0.25, Outcome: "done"})
	if o.StepNumber < len(steps) {
		o.Step, o.StepNumber, o.Progress = steps[o.StepNumber], o.StepNumber+1, "waiting for the database"
		return
	}
	o.Ended, o.Progress = doubleTime(), ""
	if i != nil && strings.HasPrefix(i.Name, "broken") {
		o.Status = "failed"
		o.Failure = &wire.InstanceFault{Message: "The server did not come up within 10 minutes."}
		i.Status, i.Fault = "ERROR", o.Failure
		return
	}
	o.Status = "succeeded"
	d.effect(o, i)
}

func (d *double) effect(o *wire.Operation, i *wire.Instance) {
	switch {
	case i == nil:
	case o.Kind == "delete_instance":
		d.instances = slices.DeleteFunc(d.instances, func(other *wire.Instance) bool { return other == i })
	default:
		i.Status, i.OperatingStatus, i.Operation = "ACTIVE", "HEALTHY", nil
		i.Addresses = []wire.Address{{Address: "127.77.0.2", Type: "private"}}
		i.IP = []string{"127.77.0.2"}
		i.URI = "redis://default@127.77.0.2:6379"
	}
}

func (d *double) instance(w http.ResponseWriter, r *http.Request, i *wire.Instance, rest string) {
	switch r.Method + " " + rest {
	case "GET ":
		d.answer(w, wire.InstanceEnvelope{Instance: *i})
	case "DELETE ":
		if i.DeletionProtection {
			d.fault(w, 403, "forbidden", "Instance "+i.ID+" is protected from deletion; take the protection off first.")
			return
		}
		d.accept(w, d.enqueue("delete_instance", i))
	case "PUT ":
		var body wire.PutInstanceRequest
		read(r, &body)
		d.put(w, i, body.Instance)
	case "POST action":
		var action wire.InstanceAction
		read(r, &action)
		d.act(w, i, action)
	case "GET credentials":
		d.answer(w, wire.CredentialsEnvelope{Credentials: wire.Credentials{
			Username: "default", Password: doublePassword, URI: "redis://default:" + doublePassword + "@127.77.0.2:6379"}})
	case "GET configuration":
		var body wire.InstanceConfiguration
		body.Instance.Configuration = map[string]any{"maxmemory": 402653184, "appendonly": true, "save": "900 1"}
		d.answer(w, body)
	case "GET users", "POST users", "GET users/*", "PUT users/*", "DELETE users/*", "PUT users/*/databases", "DELETE users/*/databases/*":
		d.user(w, r, i, strings.Split(strings.TrimPrefix(r.URL.Path, "/v1.0/"), "/")[3:])
	case "GET root":
		d.answer(w, wire.RootEnabled{RootEnabled: d.roots[i.ID]})
	case "POST root":
		var body wire.RootRequest
		read(r, &body)
		d.roots[i.ID] = true
		var u wire.RootUser
		u.User.Name, u.User.Password = "-", "generated-password"
		if body.Password != nil {
			u.User.Password = *body.Password
		}
		d.answer(w, u)
	case "DELETE root":
		d.roots[i.ID] = false
		w.WriteHeader(http.StatusNoContent)
	default:
		d.fault(w, 404, "itemNotFound", "There is no such route.")
	}
}

// user answers what is asked about the users of any instance; path begins with "users".
func (d *double) user(w http.ResponseWriter, r *http.Request, i *wire.Instance, path []string) {
	if len(path) == 1 && r.Method == http.MethodGet {
		d.answer(w, wire.UserList{Users: d.users})
		return
	}
	if len(path) == 1 {
		var body wire.UsersRequest
		read(r, &body)
		for _, u := range body.Users {
			d.users = append(d.users, wire.User{Name: u.Name, Host: "%", Databases: append([]wire.Grant{}, u.Databases...)})
		}
		d.accept(w, d.enqueue("set_users", i))
		return
	}
	at := slices.IndexFunc(d.users, func(u wire.User) bool { return u.Name == path[1] })
	if at < 0 {
		d.fault(w, 404, "itemNotFound", "User "+path[1]+" not found.")
		return
	}
	u := &d.users[at]
	switch r.Method + fmt.Sprint(len(path)) {
	case "GET2":
		d.answer(w, wire.UserEnvelope{User: *u})
		return
	case "PUT2":
		var body wire.UserUpdateRequest
		read(r, &body)
		if body.User.Name != nil {
			u.Name = *body.User.Name
		}
	case "DELETE2":
		d.users = slices.Delete(d.users, at, at+1)
	case "PUT3":
		var body wire.GrantList
		read(r, &body)
		u.Databases = append(u.Databases, body.Databases...)
	case "DELETE4":
		u.Databases = slices.DeleteFunc(u.Databases, func(g wire.Grant) bool { return g.Name == path[3] })
	}
	d.accept(w, d.enqueue("set_users", i))
}

// replicate makes replicas of an instance, which the answer describes the last of.
func (d *double) replicate(w http.ResponseWriter, n *wire.CreateInstance) {
	var of string
	_ = json.Unmarshal(n.ReplicaOf, &of)
	at := slices.IndexFunc(d.instances, func(i *wire.Instance) bool { return i.ID == of })
	if at < 0 || n.FlavorRef != "" || n.Volume != nil {
		d.fault(w, 400, "badRequest", "A replica has its source's flavor and volume.")
		return
	}
	i := *d.instances[at]
	i.ID, i.Name, i.ReplicaOf = d.id(), n.Name, &wire.Resource{ID: of}
	i.InstanceDetail = &wire.InstanceDetail{Created: doubleTime(), Updated: doubleTime()}
	if n.ReplicaCount != nil {
		count, _ := n.ReplicaCount.Int()
		i.Name = fmt.Sprintf("%s-%d", n.Name, count)
	}
	d.instances = append(d.instances, &i)
	w.Header().Set(wire.HeaderOperation, d.enqueue("create_replicas", d.instances[at]).ID)
	d.answer(w, wire.InstanceEnvelope{Instance: i})
}

func (d *double) put(w http.ResponseWriter, i *wire.Instance, p *wire.PutInstance) {
	if p.Name != nil {
		i.Name = *p.Name
	}
	if p.DeletionProtection != nil {
		i.DeletionProtection = *p.DeletionProtection
	}
	if p.Persistence.Set {
		i.Persistence = p.Persistence.Value
		w.Header().Add("Warning", `299 grove "With snapshots alone, what was written after the last one is lost."`)
		d.accept(w, d.enqueue("set_persistence", i))
		return
	}
	if p.DatastoreVersion.Set {
		d.accept(w, d.enqueue("upgrade_instance", i))
		return
	}
	if p.ReplicaOf.Set {
		i.ReplicaOf = nil
		d.accept(w, d.enqueue("detach_replica", i))
		return
	}
	if p.Configuration.Set {
		i.Configuration = nil
		if !p.Configuration.Null {
			i.Configuration = &wire.Resource{ID: string(p.Configuration.Value)}
		}
		d.accept(w, d.enqueue("configure_instance", i))
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (d *double) act(w http.ResponseWriter, i *wire.Instance, action wire.InstanceAction) {
	switch {
	case action.Restart != nil:
		d.accept(w, d.enqueue("restart_instance", i))
	case action.PromoteToReplicaSource != nil:
		d.accept(w, d.enqueue("promote_replica", i))
	case action.EjectReplicaSource != nil:
		d.accept(w, d.enqueue("eject_source", i))
	case action.Rebuild != nil:
		d.accept(w, d.enqueue("rebuild_instance", i))
	case action.Stop != nil:
		d.accept(w, d.enqueue("stop_instance", i))
	case action.Start != nil:
		d.accept(w, d.enqueue("start_instance", i))
	case action.RenewCertificates != nil:
		d.accept(w, d.enqueue("renew_certificates", i))
	case action.Failover != nil:
		d.accept(w, d.enqueue("failover", i))
	case action.Resize != nil && action.Resize.Volume != nil:
		size, _ := action.Resize.Volume.Size.Int()
		if size <= i.Volume.Size {
			d.fault(w, 400, "badRequest", fmt.Sprintf("The new size, %d GB, is not larger than the present one.", size))
			return
		}
		i.Volume.Size = size
		d.accept(w, d.enqueue("resize_volume", i))
	case action.Resize != nil:
		i.Flavor.ID = string(action.Resize.FlavorRef)
		d.accept(w, d.enqueue("resize_flavor", i))
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

func (d *double) createGroup(w http.ResponseWriter, r *http.Request) {
	var body wire.CreateConfigurationRequest
	read(r, &body)
	n := body.Configuration
	g := &wire.Configuration{
		ID: d.id(), Name: n.Name, Description: n.Description, Created: doubleTime(), Updated: doubleTime(), DatastoreName: "redis",
		DatastoreVersionID: doubleDatastore().Versions[0].ID, DatastoreVersionName: "7.0", DatastoreVersionNumber: "7.0.15",
		ConfigurationDetail: &wire.ConfigurationDetail{Values: n.Values},
	}
	d.groups = append(d.groups, g)
	d.answer(w, wire.ConfigurationEnvelope{Configuration: *g})
}

func (d *double) group(w http.ResponseWriter, r *http.Request, g *wire.Configuration, rest string) {
	var body wire.UpdateConfigurationRequest
	switch r.Method + " " + rest {
	case "GET ":
		d.answer(w, wire.ConfigurationEnvelope{Configuration: *g})
	case "GET instances":
		all := []wire.Resource{}
		for _, i := range d.instances {
			if i.Configuration != nil && i.Configuration.ID == g.ID {
				all = append(all, wire.Resource{ID: i.ID, Name: i.Name})
			}
		}
		d.answer(w, wire.ConfigurationInstances{Instances: all})
	case "PUT ", "PATCH ":
		read(r, &body)
		if r.Method == http.MethodPut {
			g.Values = map[string]any{}
		}
		for name, v := range body.Configuration.Values {
			g.Values[name] = v
		}
		var ids []string
		for _, i := range d.instances {
			if i.Configuration != nil && i.Configuration.ID == g.ID {
				ids = append(ids, d.enqueue("configure_instance", i).ID)
			}
		}
		w.Header().Set(wire.HeaderOperation, strings.Join(ids, ", "))
	case "DELETE ":
		d.groups = slices.DeleteFunc(d.groups, func(other *wire.Configuration) bool { return other == g })
		w.WriteHeader(http.StatusAccepted)
	}
}

func (d *double) operation(w http.ResponseWriter, r *http.Request, o *wire.Operation, rest string) {
	switch r.Method + " " + rest {
	case "GET ":
		i := slices.IndexFunc(d.instances, func(i *wire.Instance) bool { return i.ID == o.ResourceID })
		if i >= 0 {
			d.advance(o, d.instances[i])
		} else {
			d.advance(o, nil)
		}
		d.answer(w, wire.OperationEnvelope{Operation: *o})
	case "POST action":
		var action wire.OperationAction
		read(r, &action)
		if action.Cancel != nil {
			o.Status, o.Failure = "cancelled", &wire.InstanceFault{Message: "An operator cancelled it."}
		}
		d.accept(w, o)
	}
}

func (d *double) accept(w http.ResponseWriter, o *wire.Operation) {
	w.Header().Set(wire.HeaderOperation, o.ID)
	w.WriteHeader(http.StatusAccepted)
}

func (d *double) answer(w http.ResponseWriter, body any) {
	_ = json.NewEncoder(w).Encode(body)
}

func (d *double) fault(w http.ResponseWriter, status int, name, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]wire.Fault{name: {Code: status, Message: message}})
}

func read(r *http.Request, into any) {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		panic(err)
	}
}

// cut gives a page of two, so that paging shows early; the marker in its link is escaped twice, as Trove's is.
func cut[T any](r *http.Request, all []T, id func(T) string) ([]T, []wire.Link) {
	const pageSize = 2
	if id == nil {
		return all, nil
	}
	marker := r.URL.Query().Get("marker")
	from := slices.IndexFunc(all, func(one T) bool { return id(one) > marker })
	if from < 0 {
		return []T{}, nil
	}
	page := all[from:min(from+pageSize, len(all))]
	if limit, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil {
		page = page[:min(limit, len(page))]
	}
	if last := id(page[len(page)-1]); last != id(all[len(all)-1]) {
		query := r.URL.Query()
		query.Set("marker", url.QueryEscape(last))
		return page, []wire.Link{{Rel: "next", Href: "https://" + r.Host + r.URL.Path + "?" + query.Encode()}}
	}
	return page, nil
}

func doubleDatastore() wire.Datastore {
	return wire.Datastore{
		ID: "00000000-0000-7000-8000-0000000000d1", Name: "redis", DefaultVersion: "00000000-0000-7000-8000-0000000000f1",
		Versions: []wire.Version{
			{ID: "00000000-0000-7000-8000-0000000000f1", Name: "7.0", Version: "7.0.15"},
			{ID: "00000000-0000-7000-8000-0000000000f2", Name: "valkey-8.0", Version: "8.0.2"},
		},
	}
}

func doubleParameters() []wire.Parameter {
	version := doubleDatastore().DefaultVersion
	low, high := int64(1), int64(500)
	return []wire.Parameter{
		{Name: "hz", Type: "integer", Min: &low, Max: &high, DatastoreVersionID: version},
		{Name: "databases", Type: "integer", Min: &low, RestartRequired: true, DatastoreVersionID: version},
		{Name: "save", Type: "string", DatastoreVersionID: version},
		{Name: "maxmemory-policy", Type: "string", Values: []string{"noeviction", "allkeys-lru"}, DatastoreVersionID: version},
	}
}

func doubleFlavors() []wire.Flavor {
	one, two := int64(1), int64(2)
	return []wire.Flavor{
		{ID: &one, StrID: "1", Name: "db.tiny", RAM: 512, VCPUs: 1, Disk: 5},
		{ID: &two, StrID: "2", Name: "db.small", RAM: 1024, VCPUs: 1, Disk: 10},
	}
}

func (d *double) createCluster(w http.ResponseWriter, r *http.Request) {
	var body wire.CreateClusterRequest
	read(r, &body)
	cl := &wire.Cluster{
		ID: d.id(), Name: body.Cluster.Name, Task: wire.ClusterTask{ID: 2, Name: "BUILDING", Description: "building the initial cluster"},
		Created: doubleTime(), Updated: doubleTime(), Datastore: wire.DatastoreRef{Type: "redis", Version: "7.0"},
	}
	cl.Replicas, _ = body.Cluster.ExtendedProperties.ReplicasPerShard.Int()
	for range body.Cluster.Instances {
		d.join(cl, "")
	}
	d.clusters = append(d.clusters, cl)
	shown := *cl
	shown.Password = doublePassword
	w.Header().Set(wire.HeaderOperation, d.enqueueFor(cl, "create_cluster").ID)
	d.answer(w, wire.ClusterEnvelope{Cluster: shown})
}

func (d *double) join(cl *wire.Cluster, name string) {
	if name == "" {
		name = fmt.Sprintf("%s-member-%d", cl.Name, len(cl.Instances)+1)
	}
	cl.Instances = append(cl.Instances, wire.ClusterMember{
		ID: d.id(), Name: name, Type: "member", Role: "master", Status: "ACTIVE", Health: "ok", Keys: 5461,
		IP: []string{"127.77.0.9"}, Flavor: &wire.Resource{ID: "1"}, Volume: &wire.Volume{Size: 1}, Links: []wire.Link{},
	})
}

func (d *double) enqueueFor(cl *wire.Cluster, kind string) *wire.Operation {
	op := d.enqueue(kind, &wire.Instance{ID: cl.ID})
	op.ResourceType = "cluster"
	return op
}

func (d *double) cluster(w http.ResponseWriter, r *http.Request, cl *wire.Cluster, rest string) {
	switch r.Method + " " + rest {
	case "GET ":
		d.answer(w, wire.ClusterEnvelope{Cluster: *cl})
	case "GET credentials":
		d.answer(w, wire.CredentialsEnvelope{Credentials: wire.Credentials{Username: "default", Password: doublePassword, URI: "redis://127.77.0.9:6379"}})
	case "DELETE ":
		d.clusters = slices.DeleteFunc(d.clusters, func(other *wire.Cluster) bool { return other == cl })
		d.accept(w, d.enqueueFor(cl, "delete_cluster"))
	case "POST ":
		d.actOnCluster(w, r, cl)
	default:
		d.fault(w, 404, "itemNotFound", "There is no "+rest+".")
	}
}

func (d *double) actOnCluster(w http.ResponseWriter, r *http.Request, cl *wire.Cluster) {
	var action wire.ClusterAction
	read(r, &action)
	for _, m := range action.Grow {
		name := ""
		if m.Name != nil {
			name = *m.Name
		}
		d.join(cl, name)
		if m.RelatedTo != nil {
			cl.Instances[len(cl.Instances)-1].Role = "replica"
		}
	}
	for _, leaving := range action.Shrink {
		cl.Instances = slices.DeleteFunc(cl.Instances, func(m wire.ClusterMember) bool { return m.ID == leaving.ID.ID() })
	}
	if action.Resize != nil && action.Resize.Volume != nil {
		for i := range cl.Instances {
			cl.Instances[i].Volume.Size, _ = action.Resize.Volume.Size.Int()
		}
	}
	if action.Upgrade != nil {
		cl.Datastore.Version = action.Upgrade.DatastoreVersion
	}
	if action.ConfigurationAttach != nil {
		cl.Configuration = action.ConfigurationAttach.ConfigurationID.ID()
	}
	if action.ConfigurationDetach != nil {
		cl.Configuration = ""
	}
	cl.Task = wire.ClusterTask{ID: 1, Name: "NONE", Description: "no task"}
	w.Header().Set(wire.HeaderOperation, d.enqueueFor(cl, "some_change").ID)
	w.WriteHeader(http.StatusAccepted)
	d.answer(w, wire.ClusterEnvelope{Cluster: *cl})
}
