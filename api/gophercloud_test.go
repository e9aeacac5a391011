package api

import (
	"encoding/json"
	"testing"
	"time"
)

// gopherTime and the structs below decode as gophercloud's openstack/db/v1 does: with its types, so that an answer
// which it could not read fails here too.
type gopherTime time.Time

func (g *gopherTime) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil || s == "" {
		return err
	}
	t, err := time.Parse("2006-01-02T15:04:05", s)
	*g = gopherTime(t)
	return err
}

type gopherInstance struct {
	ID, Name, Status, Hostname string
	IP                         []string
	Addresses                  []struct{ Type, Address string }
	Links                      []struct{ Rel, Href string }
	Flavor                     struct{ ID string }
	Volume                     struct {
		Size int
		Used float64
	}
	Datastore struct {
		Type, Version string
		VersionID     string `json:"version_id"`
	}
	Fault *struct {
		Created          gopherTime
		Message, Details string
	}
	Created, Updated gopherTime
}

func TestGophercloudCanDecode(t *testing.T) {
	h := newHouse(t)
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	id := h.newInstance("a")
	h.newInstance("b")
	h.beat(id, 1<<29, 1<<31)

	var one struct{ Instance gopherInstance }
	decodeInto(t, h.get("/instances/"+id), &one)
	i := one.Instance
	if i.ID != id || i.Volume.Size != 1 || i.Volume.Used != 0.5 || i.Flavor.ID != "1" || i.IP[0] != "127.77.0.5" || time.Time(i.Created).IsZero() ||
		i.Datastore.VersionID == "" {
		t.Errorf("decoded as %+v", i)
	}
	var list struct {
		Instances      []gopherInstance
		InstancesLinks []struct{ Rel, Href string } `json:"instances_links"`
	}
	decodeInto(t, h.get("/instances?limit=1"), &list)
	if len(list.Instances) != 1 || len(list.InstancesLinks) != 1 || list.InstancesLinks[0].Rel != "next" {
		t.Errorf("decoded as %+v", list)
	}
	var configuration struct {
		Configuration struct {
			ID, Name, Description string
			DatastoreName         string `json:"datastore_name"`
			DatastoreVersionID    string `json:"datastore_version_id"`
			DatastoreVersionName  string `json:"datastore_version_name"`
			Values                map[string]any
			Created, Updated      gopherTime
		}
	}
	decodeInto(t, h.get("/configurations/"+group), &configuration)
	if configuration.Configuration.Values["hz"] != 15.0 || time.Time(configuration.Configuration.Created).IsZero() {
		t.Errorf("decoded as %+v", configuration)
	}
	var flavors struct {
		Flavors []struct {
			ID    int
			StrID string `json:"str_id"`
			Name  string
			RAM   int
		}
	}
	decodeInto(t, h.get("/flavors"), &flavors)
	if flavors.Flavors[0].ID != 1 || flavors.Flavors[2].ID != 0 || flavors.Flavors[2].StrID != "007" {
		t.Errorf("decoded as %+v", flavors)
	}
	var parameters struct {
		Parameters []struct {
			Name, Type      string
			RestartRequired bool `json:"restart_required"`
			Min, Max        float64
		} `json:"configuration-parameters"`
	}
	decodeInto(t, h.get("/datastores/redis/versions/7.0/parameters"), &parameters)
	if parameters.Parameters[0].Max != 500 {
		t.Errorf("decoded as %+v", parameters)
	}
	var datastores struct {
		Datastores []struct {
			ID, Name       string
			DefaultVersion string `json:"default_version"`
			Versions       []struct{ ID, Name string }
		}
	}
	decodeInto(t, h.get("/datastores"), &datastores)
	if datastores.Datastores[0].DefaultVersion != datastores.Datastores[0].Versions[0].ID {
		t.Errorf("decoded as %+v", datastores)
	}
	var quotas struct {
		Quotas []struct {
			Resource        string
			Limit, Reserved int
			InUse           int `json:"in_use"`
		}
	}
	decodeInto(t, h.get("/mgmt/quotas/demo"), &quotas)
	if quotas.Quotas[0].InUse != 2 {
		t.Errorf("decoded as %+v", quotas)
	}
}

func decodeInto(t *testing.T, r *result, into any) {
	t.Helper()
	if err := json.Unmarshal(r.want(200).body, into); err != nil {
		t.Errorf("%s: %v\n%s", r.what, err, r.body)
	}
}
