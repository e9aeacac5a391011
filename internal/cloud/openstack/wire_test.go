package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/keystone"
)

// wire is the services' side of the wire: Keystone, and whatever a test answers for the others.
type wire struct {
	*httptest.Server
	mu      sync.Mutex
	logins  int
	asked   []string
	answers map[string]func(w http.ResponseWriter, r *http.Request)
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{answers: map[string]func(http.ResponseWriter, *http.Request){}}
	for _, where := range []string{"", "/two", "/inside"} {
		for path, version := range map[string]string{where + "/network/": "v2.0", where + "/image/": "v2.9"} {
			w.answers["GET "+path] = func(out http.ResponseWriter, r *http.Request) {
				dir, _, _ := strings.Cut(version, ".")
				fault(200, fmt.Sprintf(`{"versions": [{"id": %q, "status": "CURRENT", "links": [{"rel": "self", "href": "http://%s%s%s/"}]}]}`,
					version, r.Host, path, dir))(out, r)
			}
		}
	}
	w.Server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.Close)
	return w
}

func (w *wire) serve(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := r.Method + " " + r.URL.Path
	w.asked = append(w.asked, what)
	if what == "POST /v3/auth/tokens" {
		w.login(out, r)
		return
	}
	answer := w.answers[what]
	if answer == nil {
		http.NotFound(out, r)
		return
	}
	answer(out, r)
}

func (w *wire) login(out http.ResponseWriter, r *http.Request) {
	w.logins++
	var catalog []map[string]any
	for kind, path := range map[string]string{"compute": "/compute/v2.1/", "volumev3": "/volume/v3/", "network": "/network/", "image": "/image/"} {
		catalog = append(catalog, map[string]any{"type": kind, "name": kind, "endpoints": []map[string]string{
			{"interface": "public", "region": "RegionTwo", "region_id": "RegionTwo", "url": "http://" + r.Host + "/two" + path},
			{"interface": "internal", "region": "RegionOne", "region_id": "RegionOne", "url": "http://" + r.Host + "/inside" + path},
			{"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": "http://" + r.Host + path},
		}})
	}
	out.Header().Set("X-Subject-Token", fmt.Sprint("token-", w.logins))
	out.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(out).Encode(map[string]any{"token": map[string]any{
		"expires_at": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z"), "catalog": catalog,
		"project": map[string]any{"id": "service", "name": "service", "domain": map[string]string{"id": "default", "name": "Default"}},
	}})
}

// fault answers with a status and a body.
func fault(status int, body string, headers ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("X-Openstack-Request-Id", "req-of-the-cloud")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (w *wire) cloud(t *testing.T, change func(*Config)) *Cloud {
	t.Helper()
	account, err := keystone.NewAccount(keystone.Config{AuthURL: w.URL + "/v3", Username: "grove", Password: "of-the-service-account", Project: "service"})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Account: account, Region: "RegionOne", Network: "net"}
	if change != nil {
		change(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const noVolumes = `{"volumes": []}`

// TestRefusals: a tenant learns in a sentence what was refused for good, an operator everything; the rest is tried again.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   dbaas.Code
		says   string
	}{
		"quota of Cinder": {413, `{"overLimit": {"code": 413, "message": "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. Requested 4G, quota is 500G and 499G has been consumed."}}`,
			dbaas.OverLimit, "The cloud has no room left for the volume; its operator has to make some."},
		"quota of Nova": {403, `{"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 1, but already used 500 of 500 instances"}}`,
			dbaas.OverLimit, "The cloud has no room left for the volume; its operator has to make some."},
		"exhausted network": {409, `{"NeutronError": {"type": "IpAddressGenerationFailure", "message": "No more IP addresses available on network 1.", "detail": ""}}`,
			dbaas.OverLimit, "The cloud has no room left for the volume; its operator has to make some."},
		"no such type":      {404, `{"itemNotFound": {"code": 404, "message": "Volume type with name x could not be found."}}`, dbaas.NotFound, "The cloud refused the volume: Volume type with name x could not be found."},
		"wrong":             {400, `{"badRequest": {"code": 400, "message": "Invalid zone"}}`, dbaas.BadRequest, "The cloud refused the volume: Invalid zone."},
		"with an id":        {404, `{"itemNotFound": {"code": 404, "message": "Snapshot of volume 5b1c2d7e-aaaa could not be found."}}`, dbaas.NotFound, "The cloud refused the volume; its operator can see why."},
		"with a project":    {400, `{"badRequest": {"code": 400, "message": "Invalid input for project service"}}`, dbaas.BadRequest, "The cloud refused the volume; its operator can see why."},
		"taken":             {409, `{"NeutronError": {"type": "IpAddressInUse", "message": "IP address 10.20.0.5 already allocated in subnet 4711", "detail": ""}}`, dbaas.BadRequest, "The cloud refused the volume: what it asks for is in use."},
		"policy":            {403, `{"forbidden": {"code": 403, "message": "Policy doesn't allow volume:create to be performed."}}`, dbaas.Internal, ""},
		"somebody was here": {409, `{"conflictingRequest": {"code": 409, "message": "Try again."}}`, dbaas.Internal, ""},
		"broken":            {500, `<html>Internal Server Error</html>`, dbaas.Internal, ""},
		"away":              {502, ``, dbaas.Internal, ""},
		"too many":          {413, `{"overLimit": {"code": 413, "message": "This request was rate-limited."}}`, dbaas.OverLimit, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			w.answers["GET /volume/v3/volumes/detail"] = fault(200, noVolumes, "Content-Type", "application/json")
			w.answers["POST /volume/v3/volumes"] = fault(c.status, c.body, "Content-Type", "application/json")
			_, err := w.cloud(t, nil).EnsureVolume(t.Context(), cloud.VolumeSpec{GuestID: "g", Name: "grove-g", SizeGB: 4})
			if code := dbaas.ErrorCode(err); code != c.code {
				t.Errorf("%v is %s, not %s", err, code, c.code)
			}
			if c.says != "" && dbaas.ErrorMessage(err) != c.says {
				t.Errorf("a tenant reads %q", dbaas.ErrorMessage(err))
			}
			if !strings.Contains(err.Error(), "req-of-the-cloud") || strings.Contains(err.Error(), "of-the-service-account") {
				t.Errorf("an operator reads %q", err)
			}
		})
	}
}

// TestGoneForTenants: what the cloud lost is told without its id, and operators learn that and the request's.
func TestGoneForTenants(t *testing.T) {
	w := newWire(t)
	w.answers["GET /volume/v3/volumes/4711"] = fault(404, `{"itemNotFound": {"code": 404, "message": "Volume 4711 could not be found."}}`, "Content-Type", "application/json")
	_, err := w.cloud(t, nil).Volume(t.Context(), "4711")
	if dbaas.ErrorCode(err) != dbaas.NotFound || dbaas.ErrorMessage(err) != "The cloud does not have the volume any more." {
		t.Errorf("a tenant reads %q", dbaas.ErrorMessage(err))
	}
	if !strings.Contains(err.Error(), "4711") || !strings.Contains(err.Error(), "req-of-the-cloud") {
		t.Errorf("an operator reads %q", err)
	}
}

// TestSlowLogin: who gives up waiting for a login does so alone and at once, and the login goes on for the others.
func TestSlowLogin(t *testing.T) {
	answer := make(chan struct{})
	w := newWire(t)
	w.answers["GET /volume/v3/volumes/v"] = fault(200, `{"volume": {"id": "v", "status": "available", "size": 2}}`, "Content-Type", "application/json")
	front := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-answer
		}
		w.serve(out, r)
	}))
	t.Cleanup(front.Close)
	w.URL = front.URL
	c := w.cloud(t, nil)
	patient := make(chan error, 1)
	go func() {
		_, err := c.Volume(context.WithoutCancel(t.Context()), "v")
		patient <- err
	}()
	hasty, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Volume(hasty, "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("who gives up learns %v", err)
	}
	close(answer)
	if err := <-patient; err != nil || w.logins != 1 {
		t.Errorf("%v after %d logins", err, w.logins)
	}
}

// TestLateArrival: the first request's answer was lost, and it arrives while the second is on its way: whose refusal is no
// reason to give up.
func TestLateArrival(t *testing.T) {
	w := newWire(t)
	servers := `{"servers": []}`
	w.answers["GET /compute/v2.1/servers/detail"] = func(out http.ResponseWriter, r *http.Request) {
		fault(200, servers, "Content-Type", "application/json")(out, r)
	}
	w.answers["POST /compute/v2.1/servers"] = func(out http.ResponseWriter, r *http.Request) {
		servers = `{"servers": [{"id": "first", "name": "grove-g", "status": "BUILD", "created": "2026-01-01T00:00:00Z", "metadata": {"grove_guest": "g"}, "flavor": {"id": "1"}}]}`
		fault(400, `{"badRequest": {"code": 400, "message": "Invalid volume: status must be available."}}`, "Content-Type", "application/json")(out, r)
	}
	spec := cloud.ServerSpec{GuestID: "g", Name: "grove-g", FlavorID: "1", Image: "image", VolumeID: "volume"}
	if s, err := w.cloud(t, nil).EnsureServer(t.Context(), spec); err != nil || s.ID != "first" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestTakenVolume: nor is it while the volume alone tells that a request is at work.
func TestTakenVolume(t *testing.T) {
	w := newWire(t)
	w.answers["GET /compute/v2.1/servers/detail"] = fault(200, `{"servers": []}`, "Content-Type", "application/json")
	w.answers["POST /compute/v2.1/servers"] = fault(400, `{"badRequest": {"code": 400, "message": "Invalid volume: status must be available."}}`, "Content-Type", "application/json")
	w.answers["GET /volume/v3/volumes/volume"] = fault(200, `{"volume": {"id": "volume", "status": "reserved", "size": 1}}`, "Content-Type", "application/json")
	spec := cloud.ServerSpec{GuestID: "g", Name: "grove-g", FlavorID: "1", Image: "image", VolumeID: "volume"}
	if _, err := w.cloud(t, nil).EnsureServer(t.Context(), spec); err == nil || dbaas.ErrorCode(err) != dbaas.Internal {
		t.Errorf("%v", err)
	}
}

// TestLostAndDoubledVolume: a volume is made and the reply to it lost, or it is made twice: asked again, the provider makes
// no other, and of two it keeps the one recorded.
func TestLostAndDoubledVolume(t *testing.T) {
	for name, ids := range map[string][]string{"reply lost": {"one"}, "made twice, reply lost": {"one", "two"}} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			posts, deleted, there := 0, []string{}, []string{}
			w.answers["GET /volume/v3/volumes/detail"] = func(out http.ResponseWriter, r *http.Request) {
				fault(200, `{"volumes": [`+strings.Join(there, ",")+`]}`, "Content-Type", "application/json")(out, r)
			}
			w.answers["POST /volume/v3/volumes"] = func(http.ResponseWriter, *http.Request) {
				posts++
				for _, id := range ids {
					there = append(there, fmt.Sprintf(`{"id": %q, "name": "grove-g", "status": "available", "size": 1, "metadata": {"grove_guest": "g"}}`, id))
				}
				panic(http.ErrAbortHandler)
			}
			w.answers["DELETE /volume/v3/volumes/one"] = func(out http.ResponseWriter, r *http.Request) {
				deleted = append(deleted, "one")
				fault(202, "")(out, r)
			}
			c, spec := w.cloud(t, nil), cloud.VolumeSpec{GuestID: "g", Name: "grove-g", SizeGB: 1}
			if _, err := c.EnsureVolume(t.Context(), spec); err == nil || dbaas.ErrorCode(err) != dbaas.Internal {
				t.Errorf("a lost reply is worth a retry, not %v", err)
			}
			spec.RecordedID = ids[len(ids)-1]
			v, err := c.EnsureVolume(t.Context(), spec)
			if err != nil || v.ID != spec.RecordedID || posts != 1 || len(deleted) != len(ids)-1 {
				t.Errorf("%+v, %v after %d creations; deleted: %v", v, err, posts, deleted)
			}
		})
	}
}

// TestLoginAnew: an expired or revoked token is replaced without the caller's notice.
func TestLoginAnew(t *testing.T) {
	w := newWire(t)
	w.answers["GET /volume/v3/volumes/v"] = func(out http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Auth-Token") == "token-1" {
			fault(401, `{"error": {"code": 401, "message": "The request you have made requires authentication."}}`)(out, r)
			return
		}
		fault(200, `{"volume": {"id": "v", "status": "available", "size": 2}}`, "Content-Type", "application/json")(out, r)
	}
	v, err := w.cloud(t, nil).Volume(t.Context(), "v")
	if err != nil || v.SizeGB != 2 || w.logins != 2 {
		t.Errorf("%+v, %v after %d logins", v, err, w.logins)
	}
}

// TestOwnedAsksByPage: what there is is read a page at a time, and nothing of it one by one; of all that a project has what is
// not ours is left out.
func TestOwnedAsksByPage(t *testing.T) {
	asked := map[int]int{}
	for _, pages := range []int{1, 3} {
		w := newWire(t)
		w.answers["GET /compute/v2.1/servers/detail"] = paged(pages, "servers", func(n int) string {
			return fmt.Sprintf(`{"id": "s%d", "name": "s", "status": "ACTIVE", "created": "2026-01-01T00:00:00Z", "metadata": {"grove_guest": "g%d"}, "flavor": {"id": "1"}}`, n, n)
		})
		w.answers["GET /volume/v3/volumes/detail"] = paged(pages, "volumes", func(n int) string {
			return fmt.Sprintf(`{"id": "v%d", "status": "in-use", "metadata": {"grove_guest": "g%d"}}`, n, n)
		})
		answer := func(body string) func(http.ResponseWriter, *http.Request) {
			return fault(200, body, "Content-Type", "application/json")
		}
		w.answers["GET /compute/v2.1/os-server-groups"] = answer(`{"server_groups": [{"id": "sg", "name": "grove-0192d3a8-0000-7000-8000-000000000001"}, {"id": "other", "name": "grove-of-trees"}]}`)
		w.answers["GET /network/v2.0/ports"] = answer(`{"ports": [{"id": "p", "description": "grove guest g0"}, {"id": "a", "description": "grove address i0 epoch=1"}, {"id": "other"}]}`)
		w.answers["GET /network/v2.0/security-groups"] = answer(`{"security_groups": [{"id": "own", "description": "grove guest g0 peers=group"}, {"id": "shared", "description": "grove peers group"}, {"id": "other"}]}`)
		c := w.cloud(t, nil)
		all, err := c.Owned(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, r := range all {
			kinds[r.Kind]++
		}
		for kind, n := range map[string]int{cloud.KindServer: 100 * pages, cloud.KindVolume: 100 * pages, cloud.KindServerGroup: 1,
			cloud.KindPort: 1, cloud.KindAddress: 1, cloud.KindSecurityGroup: 1, cloud.KindPeersGroup: 1} {
			if kinds[kind] != n {
				t.Errorf("%d pages: %d of the kind %s, want %d", pages, kinds[kind], kind, n)
			}
		}
		for _, what := range w.asked {
			if strings.HasPrefix(what, "GET ") && (strings.Contains(what, "/servers/detail") || strings.Contains(what, "/volumes/detail")) {
				asked[pages]++
			}
		}
		if mine, err := c.Owned(t.Context(), "group"); err != nil || len(mine) != 1 || mine[0].Kind != cloud.KindPeersGroup {
			t.Errorf("of the group: %v, %v", mine, err)
		}
	}
	if asked[1] != 4 || asked[3] != 8 { // the last page is empty
		t.Errorf("lists were asked for %v times", asked)
	}
}

// paged answers a list of pages with 100 things each.
func paged(pages int, key string, one func(n int) string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("marker"))
		var list []string
		for n := range 100 {
			if page < pages {
				list = append(list, one(page*100+n))
			}
		}
		links := ""
		if page < pages {
			links = fmt.Sprintf(`, "%s_links": [{"rel": "next", "href": "http://%s%s?marker=%d"}]`, key, r.Host, r.URL.Path, page+1)
		}
		fault(200, fmt.Sprintf(`{"%s": [%s]%s}`, key, strings.Join(list, ","), links), "Content-Type", "application/json")(w, r)
	}
}

// TestSecondSecurityGroup: of two groups of a guest the one counts that its port is in, whichever is older; the other is one too
// many.
func TestSecondSecurityGroup(t *testing.T) {
	const list = `{"security_groups": [{"id": "early", "name": "n", "description": "grove guest g", "created_at": "2026-01-01T00:00:00Z"},
		{"id": "late", "name": "n", "description": "grove guest g", "created_at": "2026-01-01T00:00:00Z"},
		{"id": "lone", "name": "n", "description": "grove guest other", "created_at": "2026-01-01T00:00:00Z"}]}`
	answer := func(body string) func(http.ResponseWriter, *http.Request) {
		return fault(200, body, "Content-Type", "application/json")
	}
	w := newWire(t)
	w.answers["GET /network/v2.0/security-groups"] = answer(list)
	w.answers["GET /network/v2.0/ports"] = answer(`{"ports": [{"id": "p", "description": "grove guest g", "security_groups": ["late"]}]}`)
	w.answers["GET /network/v2.0/subnets"] = answer(`{"subnets": []}`)
	w.answers["GET /compute/v2.1/servers/detail"] = answer(`{"servers": []}`)
	w.answers["GET /compute/v2.1/os-server-groups"] = answer(`{"server_groups": []}`)
	w.answers["GET /volume/v3/volumes/detail"] = answer(noVolumes)
	w.answers["DELETE /network/v2.0/security-groups/early"] = fault(204, "")
	c := w.cloud(t, nil)
	all, err := c.Owned(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Surplus != (r.ID == "early") {
			t.Errorf("%+v", r)
		}
	}
	if id, err := c.EnsureSecurityGroup(t.Context(), cloud.SecurityGroupSpec{GuestID: "g", Name: "n"}); err != nil || id != "late" {
		t.Errorf("%q counts, %v", id, err)
	}
}

// TestSeveralServerGroups: servers that are to be apart come into the same one, whatever the order in which the cloud lists them.
func TestSeveralServerGroups(t *testing.T) {
	w := newWire(t)
	const group = "0192d3a8-0000-7000-8000-000000000001"
	for list, want := range map[string]string{
		`{"id": "b", "name": "grove-` + group + `"}, {"id": "a", "name": "grove-` + group + `"}`:                   "a",
		`{"id": "a", "name": "grove-` + group + `"}, {"id": "b", "name": "grove-` + group + `", "members": ["s"]}`: "b",
	} {
		w.answers["GET /compute/v2.1/os-server-groups"] = fault(200, `{"server_groups": [`+list+`]}`, "Content-Type", "application/json")
		if id, err := w.cloud(t, nil).EnsureServerGroup(t.Context(), group, "anti-affinity"); err != nil || id != want {
			t.Errorf("of %s it is %q, %v", list, id, err)
		}
	}
}

// TestRegions: of a catalog of several regions the services of one are asked, by the interface that is configured.
func TestRegions(t *testing.T) {
	w := newWire(t)
	for where, id := range map[string]string{"": "of-one", "/two": "of-two", "/inside": "inside"} {
		w.answers["GET "+where+"/volume/v3/volumes/v"] = fault(200, `{"volume": {"id": "`+id+`", "status": "available"}}`, "Content-Type", "application/json")
	}
	for _, c := range []struct{ region, endpoints, want string }{
		{"RegionOne", "public", "of-one"}, {"RegionTwo", "public", "of-two"}, {"RegionOne", "internal", "inside"}, {"RegionOne", "", "of-one"},
	} {
		provider := w.cloud(t, func(config *Config) { config.Region, config.Interface = c.region, c.endpoints })
		if v, err := provider.Volume(t.Context(), "v"); err != nil || v.ID != c.want {
			t.Errorf("%s of %s: %+v, %v", c.endpoints, c.region, v, err)
		}
	}
	_, err := w.cloud(t, func(config *Config) { config.Region = "RegionNine" }).Volume(t.Context(), "v")
	if err == nil || !strings.Contains(err.Error(), "RegionNine") || dbaas.ErrorCode(err) != dbaas.Internal {
		t.Errorf("a region that is not there: %v", err)
	}
}

// TestImageOfTags: the youngest active image with all tags is asked for, those of the version before those of the configuration;
// an image that is named needs no question.
func TestImageOfTags(t *testing.T) {
	w := newWire(t)
	w.answers["GET /image/v2/images"] = func(out http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		found := ""
		if q.Get("status") == "active" && q.Get("sort") == "created_at:desc" {
			found = `{"id": "youngest-of-` + strings.Join(q["tag"], "-") + `"}, {"id": "older"}`
		}
		if q.Get("tag") == "unknown" {
			found = ""
		}
		fault(200, `{"images": [`+found+`]}`, "Content-Type", "application/json")(out, r)
	}
	c := w.cloud(t, func(config *Config) { config.ImageTags = []string{"dbaas"} })
	s, err := c.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		spec cloud.ServerSpec
		want string
	}{
		{cloud.ServerSpec{Image: "named", ImageTags: []string{"redis"}}, "named"},
		{cloud.ServerSpec{ImageTags: []string{"redis", "seven"}}, "youngest-of-redis-seven"},
		{cloud.ServerSpec{}, "youngest-of-dbaas"},
	} {
		if id, err := c.image(t.Context(), s, one.spec); err != nil || id != one.want {
			t.Errorf("%+v gives %q, %v", one.spec, id, err)
		}
	}
	if _, err := c.image(t.Context(), s, cloud.ServerSpec{ImageTags: []string{"unknown"}}); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("tags of no image: %v", err)
	}
}
