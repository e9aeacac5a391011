package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// deed is what the proxy does with a request; the zero value passes it on.
type deed struct {
	lose  bool          // pass it on, and close the connection instead of the answer
	late  time.Duration // pass it on that long after the client has given up
	twice bool          // pass it on twice, side by side, and give the answer that came last
	// answer, when not 0, is the status that the proxy answers with in the service's place.
	answer     int
	retryAfter int // seconds, of the answer
}

// exchange is a request that went through the proxy.
type exchange struct {
	service      string // of the catalog: compute, volumev3, network, image, identity
	method, path string
	request      string // the id of the request to Grove on whose behalf it is
	body         []byte
	deed         deed
	began, ended time.Time // at the proxy: all of the request was there; all of the answer was
	status       int       // the service's last answer, 0 for none
}

// making tells what a request makes, and its name: "" for none of what Grove must not have twice.
func (x *exchange) making() (kind, name string) {
	if x.method != http.MethodPost {
		return "", ""
	}
	path := strings.TrimRight(x.path, "/")
	kind = path[strings.LastIndexByte(path, '/')+1:]
	key := map[string]string{"servers": "server", "volumes": "volume", "ports": "port", "security-groups": "security_group", "os-server-groups": "server_group"}[kind]
	var body map[string]struct{ Name string }
	if key == "" || json.Unmarshal(x.body, &body) != nil {
		return "", ""
	}
	return kind, body[key].Name
}

// proxy stands between Grove and the services of an OpenStack: it records every request, and does with each what the test's
// rule says. The catalog that Keystone gives through it leads back to it.
type proxy struct {
	t      testing.TB
	fronts map[string]string // base URL of a service → the proxy's in its place
	direct http.RoundTripper
	late   sync.WaitGroup
	ended  chan struct{}

	mu     sync.Mutex
	rule   func(*exchange) deed
	record []*exchange
}

// openProxy has Grove reach the cloud through a proxy from here on.
func openProxy(t testing.TB, d *devcloud) *proxy {
	t.Helper()
	client, err := openstack.AuthenticatedClient(t.Context(), d.service)
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := client.GetAuthResult().(tokens.CreateResult).ExtractServiceCatalog()
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, fronts: map[string]string{}, direct: &http.Transport{MaxIdleConnsPerHost: 16}, ended: make(chan struct{})}
	for _, entry := range catalog.Entries {
		for _, e := range entry.Endpoints {
			if at, err := url.Parse(e.URL); err == nil && at.Host != "" && slices.Contains([]string{"compute", "volumev3", "network", "image", "identity"}, entry.Type) {
				p.stand(entry.Type, at.Scheme+"://"+at.Host)
			}
		}
	}
	t.Cleanup(func() {
		close(p.ended)
		p.late.Wait()
	})
	d.authURL = string(p.turned([]byte(d.service.IdentityEndpoint)))
	if d.authURL == d.service.IdentityEndpoint {
		t.Fatalf("the proxy does not stand for Keystone: %v", p.fronts)
	}
	return p
}

// stand has the proxy stand for a service.
func (p *proxy) stand(service, at string) {
	if p.fronts[at] != "" {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.fronts[at] = "http://" + l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, service, at) }), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	p.t.Cleanup(func() { _ = server.Close() })
}

// turned leads what a text says of services to the proxy.
func (p *proxy) turned(text []byte) []byte {
	for at, front := range p.fronts {
		text = bytes.ReplaceAll(text, []byte(at), []byte(front))
	}
	return text
}

// follow sets the rule for requests from here on; nil passes all on.
func (p *proxy) follow(rule func(*exchange) deed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// exchanges gives what has gone through so far.
func (p *proxy) exchanges() []exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []exchange
	for _, x := range p.record {
		all = append(all, *x)
	}
	return all
}

func (p *proxy) begin(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule != nil {
		x.deed = p.rule(x)
	}
	x.began = time.Now()
	p.record = append(p.record, x)
}

func (p *proxy) end(x *exchange, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x.ended, x.status = time.Now(), status
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, service, at string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	x := &exchange{service: service, method: r.Method, path: r.URL.Path, request: r.Header.Get("X-Openstack-Request-Id"), body: body}
	p.begin(x)
	switch {
	case x.deed.answer != 0:
		p.end(x, x.deed.answer)
		refuse(w, x.deed)
	case x.deed.late > 0:
		<-r.Context().Done()
		p.deliverLate(x, r, at)
		panic(http.ErrAbortHandler)
	case x.deed.twice:
		first := make(chan *reply, 2)
		for range 2 {
			go func() { first <- p.pass(context.WithoutCancel(r.Context()), x, r, at) }()
		}
		<-first
		p.give(w, <-first)
	case x.deed.lose:
		p.pass(context.WithoutCancel(r.Context()), x, r, at)
		panic(http.ErrAbortHandler)
	default:
		p.give(w, p.pass(r.Context(), x, r, at))
	}
}

// refuse answers as a service does that has a bad day, with numbers and ids that are no tenant's business.
func refuse(w http.ResponseWriter, d deed) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Openstack-Request-Id", "req-of-the-proxy")
	if d.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(d.retryAfter))
	}
	w.WriteHeader(d.answer)
	fmt.Fprintf(w, `{"error": {"code": %d, "message": "project 4711 of the service has 500 of 500"}}`, d.answer)
}

// deliverLate passes a request on when the client has long forgotten it; or never, when the test is over before.
func (p *proxy) deliverLate(x *exchange, r *http.Request, at string) {
	p.late.Go(func() {
		timer := time.NewTimer(x.deed.late)
		defer timer.Stop()
		select {
		case <-p.ended:
		case <-timer.C:
			p.pass(context.WithoutCancel(r.Context()), x, r, at)
		}
	})
}

// reply is a service's answer; without a response there was none.
type reply struct {
	*http.Response
	body []byte
}

// pass sends a request to the service.
func (p *proxy) pass(ctx context.Context, x *exchange, r *http.Request, at string) *reply {
	out, err := http.NewRequestWithContext(ctx, r.Method, at+r.URL.RequestURI(), bytes.NewReader(x.body))
	if err != nil {
		return &reply{}
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding") // links are read, and turned
	resp, err := p.direct.RoundTrip(out)
	if err != nil {
		p.end(x, 0)
		return &reply{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.end(x, 0)
		return &reply{}
	}
	p.end(x, resp.StatusCode)
	return &reply{resp, body}
}

// give hands an answer on.
func (p *proxy) give(w http.ResponseWriter, a *reply) {
	if a.Response == nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.Header)
	for _, name := range []string{"Content-Length", "Connection", "Transfer-Encoding"} {
		w.Header().Del(name)
	}
	w.WriteHeader(a.StatusCode)
	_, _ = w.Write(p.turned(a.body))
}

// TestLostLateAndDoubledOnOpenStack: replies to what makes servers, volumes, ports, security groups and server groups are lost,
// requests arrive long after Grove has given them up, or twice: every instance is ACTIVE, with one server, volume and port each
// when what arrived late was swept (R2).
func TestLostLateAndDoubledOnOpenStack(t *testing.T) {
	late := 10 * time.Second // beyond Grove's patience
	count, ways := 4, map[string][]deed{"mixed": {{lose: true}, {late: late}, {twice: true}}}
	if soaking() {
		late = 20 * time.Second
		count, ways = 50, map[string][]deed{"reply lost": {{lose: true}}, "late": {{late: late}}, "twice": {{twice: true}}}
	}
	for name, deeds := range ways {
		t.Run(name, func(t *testing.T) {
			d := loginDevcloud(t)
			p := openProxy(t, d)
			d.timeout = 10 * time.Second
			f := openOpenStackFleet(t, d)
			offerRedis(f.caller(0))
			p.follow(eachOnce(deeds))
			wishes := f.createAll(count, func(i int) object {
				if i%4 == 3 { // with a server group
					return object{"high_availability": object{"durability": "async"}}
				}
				return object{}
			})
			p.requireDisturbed(deeds)
			p.awaitLate()
			arrived := time.Now()
			f.auditSwept(wishes)
			t.Logf("%d creates ACTIVE; swept %s after the last late arrival; %s", count, time.Since(arrived).Round(time.Second), p.summary())
			for _, w := range wishes {
				if err := f.remove(w.id); err != nil {
					t.Error(err)
				}
			}
			f.auditSwept(nil)
			d.requireNothing(t)
		})
	}
}

// auditSwept is audit, once what came late is gone too: the taskmanager looks for it every minute after operations.
func (f *fleet) auditSwept(kept []wish) {
	f.t.Helper()
	eventually(f.t, 5*time.Minute, func() error { return f.differences(kept) })
}

// eachOnce disturbs the first request that makes a thing of a name, by turns for each kind; when it is repeated it passes.
func eachOnce(deeds []deed) func(*exchange) deed {
	seen, turn := map[string]bool{}, map[string]int{}
	return func(x *exchange) deed {
		kind, name := x.making()
		if kind == "" || seen[kind+name] {
			return deed{}
		}
		seen[kind+name] = true
		turn[kind]++
		return deeds[(turn[kind]-1)%len(deeds)]
	}
}

// createAll asks for instances at once, and waits until each is ACTIVE.
func (f *fleet) createAll(count int, more func(i int) object) []wish {
	f.t.Helper()
	wishes, failures := make([]wish, count), make([]error, count)
	var work sync.WaitGroup
	for i := range count {
		work.Go(func() { wishes[i], failures[i] = f.create(fmt.Sprintf("wish-%02d", i), more(i), true) })
	}
	work.Wait()
	for i, w := range wishes {
		if failures[i] != nil || w.status != "ACTIVE" {
			f.t.Errorf("%s is %s: %s %v", w.name, w.status, w.fault, failures[i])
		}
	}
	if f.t.Failed() {
		f.t.FailNow()
	}
	return wishes
}

// requireDisturbed fails when some kind of request was not disturbed in each way: then the test has shown nothing.
func (p *proxy) requireDisturbed(deeds []deed) {
	p.t.Helper()
	seen := map[string]map[deed]bool{}
	for _, x := range p.exchanges() {
		if kind, _ := x.making(); kind != "" && x.deed != (deed{}) {
			if seen[kind] == nil {
				seen[kind] = map[deed]bool{}
			}
			seen[kind][x.deed] = true
		}
	}
	for _, kind := range []string{"servers", "volumes", "ports", "security-groups", "os-server-groups"} {
		want := len(deeds)
		if kind == "os-server-groups" { // there are few
			want = 1
		}
		if len(seen[kind]) < want {
			p.t.Errorf("of the requests for %s only these were disturbed: %v", kind, seen[kind])
		}
	}
}

// awaitLate waits until all that is to arrive late has arrived.
func (p *proxy) awaitLate() {
	p.t.Helper()
	eventually(p.t, 3*time.Minute, func() error {
		for _, x := range p.exchanges() {
			if x.deed.late > 0 && x.ended.IsZero() {
				return fmt.Errorf("%s %s is still held", x.method, x.path)
			}
		}
		return nil
	})
}

// summary tells how the disturbed requests ended, by kind and what was done.
func (p *proxy) summary() string {
	counts := map[string]int{}
	for _, x := range p.exchanges() {
		if kind, _ := x.making(); kind != "" && x.deed != (deed{}) {
			counts[fmt.Sprintf("%s %s→%d", kind, x.deed.name(), x.status)]++
		}
	}
	var text []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		text = append(text, fmt.Sprintf("%s: %d", what, counts[what]))
	}
	return strings.Join(text, ", ")
}

func (d deed) name() string {
	switch {
	case d.answer != 0:
		return strconv.Itoa(d.answer)
	case d.late > 0:
		return "late"
	case d.twice:
		return "twice"
	case d.lose:
		return "lost"
	default:
		return "passed"
	}
}
