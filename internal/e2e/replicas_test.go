package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestReplicas is a tenant's life with read replicas: they come without a pause of their source, one becomes the source
// without losing a write, a source that is down is ejected, and one leaves.
func TestReplicas(t *testing.T) {
	t.Parallel()
	h := open(t)
	source := h.createActive("main")
	w := writes(t, source.patient(), "k")
	h.do(200, "POST", "/instances", object{"instance": object{"name": "copy", "flavorRef": "1", "replica_of": source.id, "replica_count": 2}})
	replicas := source.awaitReplicas(2)
	w.requireNoErrors("two replicas are made")
	for _, r := range replicas {
		r.await("ACTIVE", "HEALTHY")
		if r.show().text("instance", "replica_of", "id") != source.id {
			t.Errorf("replica %s shows %v", r.id, r.show())
		}
		if err := r.redis().Set(t.Context(), "k", "v", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
			t.Errorf("a write at a replica: %v", err)
		}
	}
	h.do(403, "DELETE", "/instances/"+source.id, nil)

	promoted, other := replicas[0], replicas[1]
	promoted.action(object{"promote_to_replica_source": object{}})
	eventually(t, 60*time.Second, func() error { return promoted.requireSource(other, source) })
	w.stop()
	t.Log(w.summary())
	w.requireAll(promoted.redis(), true)

	w = writes(t, promoted.patient(), "after")
	h.do(400, "POST", "/instances/"+promoted.id+"/action", object{"eject_replica_source": object{}})
	w.stop()
	promoted.action(object{"stop": object{}})
	promoted.await("ACTIVE", "SHUTDOWN")
	promoted.action(object{"eject_replica_source": object{}})
	var chosen *instance
	eventually(t, 90*time.Second, func() error {
		if err := other.requireSource(source); err == nil {
			chosen = other
			return nil
		}
		chosen = source
		return source.requireSource(other)
	})
	w.requireAll(chosen.redis(), true)
	if v := promoted.show(); v.at("instance", "replica_of") != nil || v.at("instance", "replicas") != nil {
		t.Errorf("an ejected source shows %v", v)
	}

	left := other
	if chosen == other {
		left = source
	}
	h.do(202, "PUT", "/instances/"+left.id, object{"instance": object{"replica_of": nil}})
	eventually(t, 60*time.Second, func() error {
		if v := left.show(); v.at("instance", "replica_of") != nil || v.at("instance", "operation") != nil {
			return fmt.Errorf("detached, it shows %v", v)
		}
		return left.redis().Set(t.Context(), "own", "1", 0).Err()
	})
	if err := chosen.redis().Get(t.Context(), "own").Err(); err == nil {
		t.Error("what a detached replica is told reaches its source")
	}
}

// awaitReplicas waits until an instance shows n replicas, and no operation.
func (in *instance) awaitReplicas(n int) (replicas []*instance) {
	in.h.t.Helper()
	eventually(in.h.t, 90*time.Second, func() error {
		v := in.show()
		list, _ := v.at("instance", "replicas").([]any)
		if len(list) != n || v.at("instance", "operation") != nil {
			return fmt.Errorf("replicas %v, operation %v", list, v.at("instance", "operation"))
		}
		replicas = nil
		for _, one := range list {
			id := object(one.(map[string]any)).text("id")
			replicas = append(replicas, &instance{h: in.h, id: id, password: in.password})
		}
		return nil
	})
	return replicas
}

// requireSource tells whether an instance takes writes, and these are its replicas.
func (in *instance) requireSource(replicas ...*instance) error {
	v := in.show()
	list, _ := v.at("instance", "replicas").([]any)
	if len(list) != len(replicas) || v.at("instance", "operation") != nil || v.at("instance", "replica_of") != nil {
		return fmt.Errorf("it shows replicas %v, replica_of %v, operation %v", list, v.at("instance", "replica_of"), v.at("instance", "operation"))
	}
	c := in.patient()
	defer c.Close()
	return c.Set(in.h.t.Context(), "source", in.id, 0).Err()
}
