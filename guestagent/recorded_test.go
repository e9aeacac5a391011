package guestagent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// R27: what the agent of an earlier release has on disk is read by this one, every word of it.
func TestFilesOfEarlierReleases(t *testing.T) {
	for text, into := range map[string]any{
		`{"boots":3,"prepared":true,"running":true,"group_epoch":2,"leases":{"op":4},"order":["op"],"desired":{"version":"7.0","address":"10.0.0.5",
			"flavor_ram":512,"vcpus":1,"volume_size":1,"values":{"hz":20},"persistence":"aof","profile":"cache","master":{"guest_id":"g","address":"10.0.0.6","port":6379},
			"peers":[{"guest_id":"g","address":"10.0.0.6","port":6379}],"failover":true},"role_epoch":2}`: &state{},
		`{"installed":"/usr/bin/grove-agent 1 2","current":"ab","trial":"cd","command":"c","patience":60000000000,"attempts":1,"refused":"A reason."}`: &programState{},
	} {
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("%T: %v", into, err)
		}
		if v := reflect.ValueOf(into).Elem(); v.IsZero() {
			t.Errorf("%T: nothing was read", into)
		}
	}
}
