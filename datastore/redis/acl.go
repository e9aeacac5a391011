package redis

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// tenantRules is what a tenant may do: all data commands, without what administers the server, reveals other
// connections or takes data out of our sight. What clients and people expect of it is added back by name.
const tenantRules = "~* &* +@all -@admin -@dangerous " +
	"-acl -config -module -debug -cluster -latency -slowlog -script|debug " +
	"+acl|whoami " +
	"+info +keys +sort +sort_ro +flushall +flushdb +role +lastsave +restore " +
	"+cluster|info +cluster|nodes +cluster|slots +cluster|shards +cluster|myid +cluster|keyslot " +
	"+cluster|countkeysinslot +cluster|getkeysinslot +cluster|replicas +cluster|links " +
	"+latency|latest +latency|history +latency|histogram +latency|doctor +latency|graph +latency|help " +
	"+slowlog|get +slowlog|len +slowlog|help"

// agentRules is what we may do.
const agentRules = "~* &* +@all"

// replicationRules is what another member of the group may do: follow, and in a cluster hand over slots with their keys.
func replicationRules(cluster bool) string {
	rules := "-@all +psync +replconf +ping"
	if cluster {
		rules += " ~* +select +restore-asking +info +cluster|setslot +cluster|nodes +cluster|bumpepoch"
	}
	return rules
}

// hashPassword gives the form of a password that the server stores. Passwords are long and random, so that a plain hash
// is enough.
func hashPassword(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// account is one user of the server.
type account struct {
	name, hash, rules string
}

func accounts(tenantHash, agentHash string) []account {
	return []account{{tenantUser, tenantHash, tenantRules}, {agentUser, agentHash, agentRules}}
}

// definition is the account as words of ACL SETUSER: all of it, so that nothing of before remains.
func (a account) definition() []string {
	return append([]string{"reset", "on", "#" + a.hash}, strings.Fields(a.rules)...)
}

// renderACL writes the ACL file. It always has a line for the default user, without which the server would let
// everybody in.
func renderACL(accounts []account) []byte {
	var b strings.Builder
	for _, a := range accounts {
		b.WriteString("user " + a.name + " " + strings.Join(a.definition(), " ") + "\n")
	}
	return []byte(b.String())
}
