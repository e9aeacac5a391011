package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"
)

// bareNumber is one of the service project's that has come through.
var bareNumber = regexp.MustCompile(`[0-9]|req-|[Pp]roject`)

// TestServicesThatRefuseOnOpenStack: Nova, Cinder, Neutron, Glance and Keystone answer 500, 429 and 401 in turn while instances are
// created, resized and deleted. Each ends well, or in an ERROR without the project's numbers; nothing is left, and who asks to be left
// alone is left alone.
func TestServicesThatRefuseOnOpenStack(t *testing.T) {
	d := loginDevcloud(t)
	p := openProxy(t, d)
	f := openOpenStackFleet(t, d)
	f.managers[1].stop() // one of each: the proxy does not know who asks
	f.apis[1].stop()
	f.apis = f.apis[:1]
	f.publish()
	offerRedis(f.caller(0))

	var lives sync.WaitGroup
	over := make(chan struct{})
	for i := range 4 {
		lives.Go(func() {
			for n := 0; ; n++ {
				if err := f.live(fmt.Sprintf("life-%d-%d", i, n)); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	for _, service := range []string{"compute", "volumev3", "network", "image", "identity"} {
		for _, status := range []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusUnauthorized} {
			p.trouble(service, status)
		}
	}
	p.follow(nil)
	close(over)
	lives.Wait()
	f.audit(nil)
	d.requireNothing(t)
	ends, err := f.list(`SELECT kind || ' ' || status || ': ' || count(*) FROM operations GROUP BY kind, status ORDER BY 1`)
	t.Logf("%v, %v", ends, err)
}

// pauseAsked is for how long a service asks to be left alone, and pauseHeard until when what was under way by then has come.
const (
	pauseAsked = 8 * time.Second
	pauseHeard = 3 * time.Second
)

// trouble has a service answer with a status until it was asked a few times, or for as long as it asked to be left alone.
func (p *proxy) trouble(service string, status int) {
	p.t.Helper()
	refusal := deed{answer: status}
	if status == http.StatusTooManyRequests {
		refusal.retryAfter = int(pauseAsked.Seconds())
	}
	from, loggedOut := len(p.exchanges()), false
	p.follow(func(x *exchange) deed {
		switch {
		case x.service == service:
			return refusal
		case service == "identity" && !loggedOut: // the taskmanager has to log in now
			loggedOut = true
			return deed{answer: http.StatusUnauthorized}
		default:
			return deed{}
		}
	})
	var refused []exchange
	eventually(p.t, 4*time.Minute, func() error {
		if p.t.Failed() {
			p.t.FailNow()
		}
		refused = slices.DeleteFunc(p.exchanges()[from:], func(x exchange) bool { return x.service != service || x.deed != refusal || x.ended.IsZero() })
		asked := 0 // by operations on instances, not by what looks at the cloud now and then
		for _, x := range refused {
			if x.request != "" {
				asked++
			}
		}
		switch {
		case asked == 0, refusal.retryAfter == 0 && asked < 3:
			return fmt.Errorf("%s has answered %d %d times", service, status, asked)
		case refusal.retryAfter > 0 && time.Since(refused[0].ended) < pauseAsked:
			return fmt.Errorf("%s wants to be left alone", service)
		}
		return nil
	})
	p.t.Logf("%s answered %d to %d requests within %s", service, status, len(refused), time.Since(refused[0].ended).Round(time.Second))
	if refusal.retryAfter == 0 {
		return
	}
	early, others := 0, 0
	if service == "identity" {
		others = 1 // api and taskmanager: one of them learns of the pause later
	}
	for _, x := range refused[1:] {
		if after := x.began.Sub(refused[0].ended); after > pauseHeard && after < pauseAsked {
			early++
		}
	}
	if early > others {
		p.t.Errorf("%s was asked %d times while it wanted to be left alone", service, early)
	}
}

// live is an instance that is created, resized and deleted. Where that ends in ERROR a tenant learns why, and nothing that is none of
// its business.
func (f *fleet) live(name string) error {
	w, err := f.create(name, object{}, true)
	if err != nil {
		return err
	}
	for _, size := range []object{{"flavorRef": "2"}, {"volume": object{"size": 2}}} {
		if w.status == "ERROR" {
			break
		}
		if err := f.resize(&w, size); err != nil {
			return err
		}
	}
	if w.status == "ERROR" {
		f.t.Logf("%s ended in ERROR: %s", name, w.fault)
		if bareNumber.MatchString(w.fault) {
			return fmt.Errorf("a tenant reads %q", w.fault)
		}
	}
	return f.remove(w.id)
}

// resize waits until that has ended.
func (f *fleet) resize(w *wish, size object) error {
	a, err := f.send("POST", "/instances/"+w.id+"/action", object{"resize": size})
	if err != nil || a.status != http.StatusAccepted {
		return fmt.Errorf("resize %s: %+v, %w", w.name, a, err)
	}
	for deadline := time.Now().Add(15 * time.Minute); ; {
		if a, err = f.send("GET", "/instances/"+w.id, nil); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("resized and lost: %s: %+v, %w", w.name, a, err)
		}
		w.status, w.fault = a.body.text("instance", "status"), a.body.text("instance", "fault", "message")
		switch {
		case w.status == "ACTIVE" || w.status == "ERROR":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s came to no end; it is %s", w.name, w.status)
		}
		pause := time.NewTimer(500 * time.Millisecond)
		<-pause.C
	}
}
