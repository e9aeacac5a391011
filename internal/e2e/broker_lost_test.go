package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// openWithBroker opens a house whose agents are processes of their own and reach it through RabbitMQ.
func openWithBroker(t *testing.T) (*house, *testbed.Broker) {
	t.Helper()
	broker := testbed.RabbitMQ(t)
	config := filepath.Join(t.TempDir(), "grove.yaml")
	text := fmt.Sprintf("rpc: {url: %q, management_url: %q}\ncloud: {local: {agents: process, agent_binary: %q}}\n",
		broker.URL, broker.ManagementURL, filepath.Join(bin, "grove-agent"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, "--config", config), broker
}

// TestBrokerLost takes the broker away with requests coming in: each is accepted, none is lost, and databases serve all
// the while (R3, R24).
func TestBrokerLost(t *testing.T) {
	h, broker := openWithBroker(t)
	before := h.createActive("before")
	before.set("greeting", "hello")
	broker.Kill()
	during := []*instance{h.create("during-1"), h.create("during-2")}
	before.requireValue("greeting", "hello")
	before.action(object{"restart": object{}})
	broker.Start(t)
	for _, in := range during {
		in.await("ACTIVE", "HEALTHY")
		in.set("k", "v")
	}
	before.await("ACTIVE", "HEALTHY")
	before.requireValue("greeting", "hello")
}

// TestAgentsOutliveTheirControlPlane kills groved: the agents go on, and a database that crashes meanwhile is brought
// back by its own (R24).
func TestAgentsOutliveTheirControlPlane(t *testing.T) {
	h, _ := openWithBroker(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	client := in.redis()
	h.kill()
	killRedis(t, client)
	requireValueSoon(t, client, "greeting", "hello")
	h.start()
	in.await("ACTIVE", "HEALTHY")
	h.do(202, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
}
