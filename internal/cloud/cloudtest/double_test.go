package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
)

func TestDouble(t *testing.T) {
	Run(t, func(*testing.T) Fixture {
		d := NewDouble()
		return Fixture{Cloud: d, Public: true, TCPPorts: []int{6379}, Surplus: func(_ *testing.T, kind, id string) string { return d.Duplicate(kind, id) }}
	})
}

// buildAgain ensures a guest's resources until all calls succeed, as the engine does, and gives the number of tries.
func buildAgain(t *testing.T, d *Double, g *guest) int {
	t.Helper()
	for try := 1; try < 50; try++ {
		if err := buildOnce(d, g); err == nil {
			return try
		} else if !errors.Is(err, ErrWire) {
			t.Fatal(err)
		}
	}
	t.Fatal("never built")
	return 0
}

func buildOnce(d *Double, g *guest) (err error) {
	ctx := context.Background()
	if g.group, err = d.EnsureSecurityGroup(ctx, g.groupSpec()); err != nil {
		return err
	}
	if g.port, err = d.EnsurePort(ctx, g.portSpec()); err != nil {
		return err
	}
	if g.volume, err = d.EnsureVolume(ctx, g.volumeSpec()); err != nil {
		return err
	}
	g.server, err = d.EnsureServer(ctx, cloud.ServerSpec{GuestID: g.id, Name: g.id, FlavorID: "1", PortID: g.port.ID, VolumeID: g.volume.ID})
	return err
}

// TestDoubleFaults: whichever call goes wrong, in whichever way, a guest has one of each in the end.
func TestDoubleFaults(t *testing.T) {
	clean := NewDouble()
	buildAgain(t, clean, newGuest(Fixture{Cloud: clean}))
	for _, mode := range []Mode{Fail, DropReply, Late} {
		for n := 1; n <= clean.Calls(""); n++ {
			t.Run(fmt.Sprintf("%s %d", mode, n), func(t *testing.T) {
				d := NewDouble()
				d.Inject(Fault{Nth: n, Mode: mode})
				g := newGuest(Fixture{Cloud: d})
				if tries := buildAgain(t, d, g); tries != 2 {
					t.Fatalf("%d tries", tries)
				}
				d.Arrive()
				buildAgain(t, d, g)
				all, err := d.Owned(t.Context(), g.id)
				if err != nil || len(all) != 4 {
					t.Fatalf("%v %v", all, err)
				}
				for _, noun := range []string{"server", "volume", "port", "security_group"} {
					e := d.Effects()
					if e["create_"+noun]-e["delete_"+noun] != 1 {
						t.Fatalf("effects: %v", e)
					}
				}
				if v := d.volumes[g.volume.ID]; v.ServerID != g.server.ID {
					t.Fatalf("the volume is at %q, the server kept is %q", v.ServerID, g.server.ID)
				}
			})
		}
	}
}

func TestDoubleShowsAndTells(t *testing.T) {
	d := NewDouble()
	var told []bool
	d.OnServer = func(s cloud.ServerSpec, running bool) {
		if s.GuestID == "" {
			t.Error("without a spec")
		}
		told = append(told, running)
	}
	d.Show("create_server", cloud.ServerBuild, cloud.ServerBuild)
	g := newGuest(Fixture{Cloud: d})
	buildAgain(t, d, g)
	for _, want := range []cloud.ServerStatus{cloud.ServerBuild, cloud.ServerBuild, cloud.ServerActive} {
		if s, err := d.Server(t.Context(), g.server.ID); err != nil || s.Status != want {
			t.Fatalf("%+v %v", s, err)
		}
	}
	if err := errors.Join(d.StopServer(t.Context(), g.server.ID), d.StartServer(t.Context(), g.server.ID)); err != nil {
		t.Fatal(err)
	}
	d.Break(g.server.ID, "its host burns", true)
	if s, err := d.Server(t.Context(), g.server.ID); err != nil || s.Status != cloud.ServerError || !s.HostDown || s.Fault == "" {
		t.Fatalf("%+v %v", s, err)
	}
	if fmt.Sprint(told) != "[true false true false]" {
		t.Fatal(told)
	}
	d.Inject(Fault{Call: "show_server", Mode: Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Server(ctx, g.server.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	refusal := errors.New("no more")
	d.Inject(Fault{Call: "create_volume", Mode: Fail, Times: -1, Err: refusal})
	spec := newGuest(Fixture{}).volumeSpec()
	for range 2 {
		if _, err := d.EnsureVolume(t.Context(), spec); !errors.Is(err, refusal) {
			t.Fatal(err)
		}
	}
	d.Heal()
	if _, err := d.EnsureVolume(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}
