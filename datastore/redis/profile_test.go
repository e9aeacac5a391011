package redis

import (
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// A profile's values reach the server, and a tenant's own stand above them.
func TestProfilesReachTheServer(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureProfiles)
		g := up(t, version)
		for _, p := range profiles() {
			d := g.desired
			d.Profile, d.Values = p.Name, map[string]any{"maxmemory-samples": 3}
			if _, err := g.Configure(t.Context(), d); err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
			running, err := g.admin(t).configGet(t.Context(), "*")
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range p.values {
				want := asText(value)
				if name == "maxmemory-samples" {
					want = "3"
				}
				if running[name] != want {
					t.Errorf("%s: %s is %s, want %s", p.Name, name, running[name], want)
				}
			}
		}
		d := g.desired
		d.Profile = "cash"
		if _, err := g.Configure(t.Context(), d); dbaas.ErrorCode(err) != dbaas.BadRequest {
			t.Errorf("a profile that does not exist: %v", err)
		}
	})
}

// Every value of a profile is one that a tenant could have set, on each version that knows it.
func TestProfilesAreValid(t *testing.T) {
	m := manifest()
	for _, p := range profiles() {
		for _, v := range m.Versions {
			if _, err := m.Validate(v.Name, p.values, datastore.Sizing{FlavorRAM: 1024, VolumeSize: 1}); err != nil {
				t.Errorf("%s on %s: %v", p.Name, v.Name, err)
			}
		}
	}
}

// A database that never forks gets the memory that the copies would take; one that is replicated does fork.
func TestCeilingWithoutCopies(t *testing.T) {
	of := func(d datastore.Desired) int64 { d.FlavorRAM = 1024; return sizing(sizingOf(d)).ceiling }
	plain, none := of(datastore.Desired{}), of(datastore.Desired{Persistence: dbaas.PersistenceNone})
	if none <= plain {
		t.Errorf("without copies %d, with them %d", none, plain)
	}
	replicated := of(datastore.Desired{Persistence: dbaas.PersistenceNone, Peers: []datastore.Endpoint{{}}})
	if replicated != plain {
		t.Errorf("replicated without files %d, want %d", replicated, plain)
	}
}

// What somebody changes past Grove is shown, and no longer once it is mended.
func TestDriftIsShown(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureDrift)
		g := up(t, version)
		shown := func() []dbaas.Drift {
			g.forgetDrift() // else the look of half a minute ago is good enough
			v := dbaas.InstanceView{Guests: []dbaas.Guest{{Observed: dbaas.JSON(g.Status(t.Context()).Observed)}}}
			return slices.DeleteFunc(v.Drift(), func(d dbaas.Drift) bool { return d.Setting[0] == '/' })
		}
		if d := shown(); len(d) > 0 {
			t.Fatalf("a new database has drifted: %+v", d)
		}
		if err := g.admin(t).configSet(t.Context(), settings{"maxmemory-policy": "allkeys-random"}); err != nil {
			t.Fatal(err)
		}
		if d := shown(); len(d) != 1 || d[0].Setting != "maxmemory-policy" || d[0].Value != "allkeys-random" || d[0].Expected != "noeviction" {
			t.Errorf("shown is %+v", d)
		}
		if _, err := g.Configure(t.Context(), g.desired); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, 20*time.Second, func() error {
			if d := shown(); len(d) > 0 {
				return dbaas.Errorf(dbaas.Internal, "still %+v", d)
			}
			return nil
		})
		datastoretest.Await(t, g, dbaas.GuestHealthy)
	})
}
