package redis

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureLife, featureSettings, featureReplicas, featurePromotion)
		datastoretest.Run(t, datastoretest.Fixture{
			Datastore: Datastore{}, Version: version, Connect: connectTenant,
			Dynamic: map[string]any{"hz": 15, "maxmemory-policy": "allkeys-lru", "timeout": 300, "notify-keyspace-events": "AKE",
				"client-output-buffer-limit": "pubsub 16mb 4mb 30", "maxmemory-clients": "20%", "latency-tracking-info-percentiles": "50 99"},
			Static:  map[string]any{"databases": 24},
			Refused: map[string]any{"activedefrag": true},
		})
	})
}

// login is a tenant's connection, one and the same all the time.
type login struct {
	*redis.Client
	conn *redis.Conn
}

func connectTenant(ctx context.Context, address, password string) (datastoretest.Tenant, error) {
	c := redis.NewClient(&redis.Options{Addr: net.JoinHostPort(address, strconv.Itoa(port)), Password: password, MaxRetries: -1, DisableIdentity: true, Protocol: 2})
	t := login{c, c.Conn()}
	if err := t.conn.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return t, nil
}

func (c login) Put(ctx context.Context, key, value string) error {
	return c.conn.Set(ctx, key, value, 0).Err()
}

func (c login) Find(ctx context.Context, key string) (string, error) {
	value, err := c.conn.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return value, err
}
