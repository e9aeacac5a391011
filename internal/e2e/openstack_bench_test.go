package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
)

// BenchmarkOpenStackCreate measures create → ACTIVE on OpenStack one at a time, and Grove's own share of it: what is left without
// the time in which a service of the cloud had a request of this create or built its server, or its guest booted or its database
// started (P5).
func BenchmarkOpenStackCreate(b *testing.B) {
	d := loginDevcloud(b)
	p := openProxy(b, d)
	f := openOpenStackFleet(b, d)
	f.alone()
	offerRedis(f.caller(0))
	var all []created
	for n := range b.N * 8 {
		c, err := f.createMeasured(fmt.Sprintf("bench-%d-%d", b.N, n))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, c)
	}
	f.reportShares(b, p, all)
	f.removeAll(b, all)
}

// alone leaves one process of each role.
func (f *fleet) alone() {
	f.managers[1].stop()
	f.apis[1].stop()
	f.apis = f.apis[:1]
	f.publish()
}

// span is a time in which something was at work.
type span struct{ from, to time.Time }

// created is an instance whose way to ACTIVE was measured.
type created struct {
	id, server, request string
	whole               span
}

// reportShares tells how long it took until instances were ACTIVE, and how much of that was Grove's own.
func (f *fleet) reportShares(b *testing.B, p *proxy, all []created) {
	b.Helper()
	var whole, own []time.Duration
	for _, c := range all {
		busy, err := f.dependencies(p, c)
		if err != nil {
			b.Fatal(err)
		}
		whole = append(whole, c.whole.to.Sub(c.whole.from))
		own = append(own, idle(c.whole, busy))
	}
	report(b, "active", whole)
	report(b, "own", own)
	b.ReportMetric(0, "ns/op")
}

func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-"+what+"-ms")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "max-"+what+"-ms")
}

// createMeasured makes an instance. It is ACTIVE to others from the moment in which its operation is saved as ended.
func (f *fleet) createMeasured(name string) (c created, err error) {
	c.whole.from = time.Now()
	a, err := f.caller(0).try("POST", "/instances", object{"instance": object{"name": name, "flavorRef": "1", "volume": object{"size": 1}}})
	if err != nil || a.status != 200 {
		return c, fmt.Errorf("create: %+v, %w", a, err)
	}
	c.id, c.request = a.body.text("instance", "id"), a.header.Get("X-Openstack-Request-Id")
	for deadline := time.Now().Add(10 * time.Minute); ; {
		var ended int64
		var status string
		row := f.rows.QueryRow(`SELECT o.ended_at, o.status, g.server_id FROM operations o JOIN guests g ON g.instance_id = o.resource_id
			WHERE o.resource_id = $1 AND o.kind = 'create_instance'`, c.id)
		if err := row.Scan(&ended, &status, &c.server); err != nil {
			return c, err
		}
		if ended > 0 {
			c.whole.to = time.UnixMicro(ended)
			if status != "succeeded" {
				err = fmt.Errorf("%s %s", name, status)
			}
			return c, err
		}
		if time.Now().After(deadline) {
			return c, fmt.Errorf("%s came to no end", name)
		}
		pause := time.NewTimer(200 * time.Millisecond)
		<-pause.C
	}
}

// dependencies gives when others were at work for an instance: the cloud's services at requests, Nova at the server until its log
// says that it is built, the guest until its agent was there, and its database while it started.
func (f *fleet) dependencies(p *proxy, c created) (busy []span, err error) {
	asked := time.Time{}
	for _, x := range p.exchanges() {
		if x.request != c.request {
			continue
		}
		busy = append(busy, span{x.began, x.ended})
		if kind, _ := x.making(); kind == "servers" {
			asked = x.ended
		}
	}
	built, err := f.builtAt(c.server)
	if err != nil {
		return nil, err
	}
	spawned, err := f.machines.spawnedAt(c.server)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(f.machines.dir, c.server)
	connected, err1 := logged(home+".log", `time=(\S+) .*broker connected`, time.RFC3339Nano)
	begun, err2 := logged(filepath.Join(home, "units/redis.log"), `\d+:C (.*?) # .*is starting`, "02 Jan 2006 15:04:05.000")
	ready, err3 := logged(filepath.Join(home, "units/redis.log"), `\d+:M (.*?) \* .*ready to accept`, "02 Jan 2006 15:04:05.000")
	return append(busy, span{asked, built}, span{spawned, connected}, span{begun, ready}), errors.Join(err1, err2, err3)
}

// builtAt is when Nova had built a server, by its own word.
func (f *fleet) builtAt(server string) (time.Time, error) {
	paths, err := filepath.Glob(filepath.Join(os.Getenv("GROVE_DEVCLOUD"), "log/nova-cmp*.log"))
	for _, path := range paths {
		at, missing := logged(path, `(?m)^(\S+ \S+) .*\[instance: `+server+`\] Took \S+ seconds to build`, "2006-01-02 15:04:05.000")
		if missing == nil {
			return at, nil
		}
		err = missing
	}
	return time.Time{}, fmt.Errorf("the build of %s: %w", server, err)
}

func (m *machines) spawnedAt(server string) (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(m.servers, server, "events"))
	if err != nil {
		return time.Time{}, err
	}
	var event struct{ At float64 }
	line, _, _ := bytes.Cut(text, []byte("\n"))
	err = json.Unmarshal(line, &event)
	return time.UnixMicro(int64(event.At * 1e6)), err
}

// logged finds the first line that a pattern fits in a log, and reads the time in it.
func logged(path, pattern, layout string) (time.Time, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return time.Time{}, fmt.Errorf("%s has no %s", path, pattern)
	}
	return time.ParseInLocation(layout, string(found[1]), time.Local)
}

func (f *fleet) removeAll(b *testing.B, all []created) {
	b.Helper()
	var work sync.WaitGroup
	for _, c := range all {
		work.Go(func() {
			if err := f.remove(c.id); err != nil {
				b.Error(err)
			}
		})
	}
	work.Wait()
}

// idle is how much of a time is in none of the spans.
func idle(whole span, busy []span) (rest time.Duration) {
	slices.SortFunc(busy, func(a, b span) int { return a.from.Compare(b.from) })
	at := whole.from
	for _, s := range busy {
		if s.to.Before(at) || s.from.After(whole.to) {
			continue
		}
		rest += max(0, s.from.Sub(at))
		at = s.to
	}
	return rest + max(0, whole.to.Sub(at))
}

// BenchmarkOpenStackWave makes instances all at once through Grove, and the same servers, volumes, ports and groups in a loop with
// nothing of Grove's around it, at several degrees of concurrency (P6).
func BenchmarkOpenStackWave(b *testing.B) {
	const count = 20
	b.Run("grove", func(b *testing.B) {
		d := loginDevcloud(b)
		p := openProxy(b, d)
		f := openOpenStackFleet(b, d)
		f.alone()
		offerRedis(f.caller(0))
		for range b.N {
			f.wave(b, p, count)
		}
		b.ReportMetric(0, "ns/op")
	})
	for _, atOnce := range []int{4, 10} {
		b.Run(fmt.Sprintf("bare/at-once=%d", atOnce), func(b *testing.B) {
			d := loginDevcloud(b)
			for range b.N {
				d.bareWave(b, count, atOnce)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func (f *fleet) wave(b *testing.B, p *proxy, count int) {
	b.Helper()
	all, failures := make([]created, count), make([]error, count)
	begun := time.Now()
	var work sync.WaitGroup
	for i := range count {
		work.Go(func() { all[i], failures[i] = f.createMeasured(fmt.Sprintf("wave-%d-%d", b.N, i)) })
	}
	over := make(chan struct{})
	go func() {
		work.Wait()
		close(over)
	}()
	var gets []time.Duration
	for done := false; !done; {
		at := time.Now()
		if a, err := f.caller(0).try("GET", "/instances?limit=20", nil); err != nil || a.status != 200 {
			b.Errorf("list: %+v, %v", a, err)
		}
		gets = append(gets, time.Since(at))
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-over:
			done = true
		case <-pause.C:
		}
	}
	if err := errors.Join(failures...); err != nil {
		b.Fatal(err)
	}
	var active, built time.Duration
	for _, c := range all {
		at, err := f.builtAt(c.server)
		if err != nil {
			b.Fatal(err)
		}
		active, built = max(active, c.whole.to.Sub(begun)), max(built, at.Sub(begun))
	}
	slices.Sort(gets)
	b.ReportMetric(active.Seconds(), "all-ACTIVE-s")
	b.ReportMetric(built.Seconds(), "all-built-s")
	b.ReportMetric(float64(gets[len(gets)*99/100].Milliseconds()), "p99-GET-ms")
	f.reportShares(b, p, all)
	f.removeAll(b, all)
}

// bareWave makes what a wave of Grove's makes.
func (d *devcloud) bareWave(b *testing.B, count, atOnce int) {
	b.Helper()
	begun := time.Now()
	failures := make([]error, count)
	next := make(chan int)
	var work sync.WaitGroup
	for range atOnce {
		work.Go(func() {
			for i := range next {
				failures[i] = d.bareCreate(b.Context(), fmt.Sprintf("bare-%d", i))
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	work.Wait()
	b.ReportMetric(time.Since(begun).Seconds(), "all-built-s")
	if err := errors.Join(failures...); err != nil {
		b.Error(err)
	}
	d.sweep(b)
}

// bareCreate makes a server as Grove does: with a security group of one rule, a port and a volume of its own.
func (d *devcloud) bareCreate(ctx context.Context, name string) error {
	group, err := groups.Create(ctx, d.net, groups.CreateOpts{Name: name, Description: "grove bare"}).Extract()
	if err != nil {
		return err
	}
	err = rules.Create(ctx, d.net, rules.CreateOpts{SecGroupID: group.ID, Direction: rules.DirIngress, EtherType: rules.EtherType4,
		Protocol: rules.ProtocolTCP, PortRangeMin: 6379, PortRangeMax: 6379, RemoteIPPrefix: "10.20.0.0/16"}).Err
	if err != nil {
		return err
	}
	port, err := ports.Create(ctx, d.net, ports.CreateOpts{Name: name, NetworkID: d.network, SecurityGroups: &[]string{group.ID}, Description: "grove bare"}).Extract()
	if err != nil {
		return err
	}
	volume, err := volumes.Create(ctx, d.volume, volumes.CreateOpts{Name: name, Size: 1}, nil).Extract()
	if err != nil {
		return err
	}
	if err := volumes.WaitForStatus(ctx, d.volume, volume.ID, "available"); err != nil {
		return err
	}
	image, err := d.anyImage(ctx)
	if err != nil {
		return err
	}
	server, err := servers.Create(ctx, d.compute, servers.CreateOpts{
		Name: name, FlavorRef: "1", ImageRef: image, Networks: []servers.Network{{Port: port.ID}},
		BlockDevice: []servers.BlockDevice{
			{SourceType: servers.SourceImage, DestinationType: servers.DestinationLocal, UUID: image, BootIndex: 0, DeleteOnTermination: true},
			{SourceType: servers.SourceVolume, DestinationType: servers.DestinationVolume, UUID: volume.ID, BootIndex: -1},
		},
	}, nil).Extract()
	if err != nil {
		return err
	}
	return servers.WaitForStatus(ctx, d.compute, server.ID, "ACTIVE")
}

// anyImage gives the id of an image for a database.
func (d *devcloud) anyImage(ctx context.Context) (string, error) {
	client, err := openstack.NewImageV2(d.compute.ProviderClient, gophercloud.EndpointOpts{})
	if err != nil {
		return "", err
	}
	pages, err := images.List(client, images.ListOpts{Tags: []string{"redis"}}).AllPages(ctx)
	if err != nil {
		return "", err
	}
	found, err := images.ExtractImages(pages)
	if err == nil && len(found) == 0 {
		err = errors.New("there is no image with the tag redis")
	}
	if err != nil {
		return "", err
	}
	return found[0].ID, nil
}
