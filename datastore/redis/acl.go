package redis

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// tenantRules is what a tenant may do with all keys and channels.
const tenantRules = "~* &* " + tenantCommands

// tenantCommands are all data commands, without what administers the server, reveals other connections or takes data out
// of our sight. What clients and people expect is added back by name.
const tenantCommands = "+@all -@admin -@dangerous " +
	"-acl -config -module -debug -cluster -latency -slowlog -script|debug " +
	"+acl|whoami " +
	"+info +keys +sort +sort_ro +flushall +flushdb +role +lastsave +restore " +
	"+cluster|info +cluster|nodes +cluster|slots +cluster|shards +cluster|myid +cluster|keyslot " +
	"+cluster|countkeysinslot +cluster|getkeysinslot +cluster|replicas +cluster|links " +
	"+latency|latest +latency|history +latency|histogram +latency|doctor +latency|graph +latency|help " +
	"+slowlog|get +slowlog|len +slowlog|help"

// agentRules is what we may do.
const agentRules = "~* &* +@all"

// limits take from an account that may touch some keys only what touches, or tells of, all of them.
const limits = " -flushall -flushdb -keys -scan -randomkey -cluster|getkeysinslot -script|flush " +
	"-function|flush -function|delete -function|restore -function|load"

// replicationRules is what another member of the group may do: follow, see how we are, and in a cluster hand over slots
// with their keys.
func replicationRules(cluster bool) string {
	rules := "-@all +psync +replconf +ping +role +info"
	if cluster {
		rules += " ~* +select +restore-asking +cluster|setslot +cluster|nodes +cluster|bumpepoch"
	}
	return rules
}

// userRules is what a tenant's further account may do: with the keys of its patterns, and the channels of those names.
func userRules(grants []string) string {
	var b strings.Builder
	for _, pattern := range grants {
		b.WriteString("~" + pattern + " &" + pattern + " ")
	}
	return b.String() + tenantCommands + limits
}

// readUsers reads the tenant's further accounts. It refuses those that would be ours.
func readUsers(text string) ([]datastore.UserAccount, error) {
	var users []datastore.UserAccount
	if err := json.Unmarshal([]byte(text), &users); err != nil {
		return nil, dbaas.Errorf(dbaas.BadRequest, "The list of users cannot be read.") // it holds hashes
	}
	for _, u := range users {
		if u.Name == "" || u.Name == tenantUser || strings.HasPrefix(u.Name, "_") || strings.ContainsFunc(u.Name, unfit) {
			return nil, dbaas.Errorf(dbaas.BadRequest, "The user name %q is reserved, or not of printable characters.", u.Name)
		}
		if hash, err := hex.DecodeString(u.Hash); err != nil || len(hash) != sha256.Size {
			return nil, dbaas.Errorf(dbaas.BadRequest, "User %s has no valid password.", u.Name)
		}
		for _, pattern := range u.Grants {
			if pattern == "" || strings.ContainsFunc(pattern, unfit) {
				return nil, dbaas.Errorf(dbaas.BadRequest, "The pattern %q of user %s must be of printable characters.", pattern, u.Name)
			}
		}
	}
	return users, nil
}

// unfit tells which characters would end a word, or a line, of the file of accounts.
func unfit(r rune) bool { return r <= ' ' || r > '~' }

// hashPassword gives the form of a password that the server stores. Passwords are long and random, so that a plain hash
// is enough.
func hashPassword(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// account is one user of the server.
type account struct {
	name, hash, rules string
	former            string // hash of the password before, which is still taken; "" for none
}

func (r *record) accounts() []account {
	list := []account{
		{name: tenantUser, hash: r.PasswordHash, rules: tenantRules},
		{name: agentUser, hash: hashPassword(r.AgentSecret), rules: agentRules},
	}
	if r.ReplicationSecret != "" {
		list = append(list, account{name: replicationUser, hash: hashPassword(r.ReplicationSecret), rules: replicationRules(r.Desired.Cluster), former: r.FormerReplication})
	}
	for _, u := range r.Users {
		list = append(list, account{name: u.Name, hash: u.Hash, rules: userRules(u.Grants)})
	}
	return list
}

// definition is the account as words of ACL SETUSER: all of it, so that nothing of before remains.
func (a account) definition() []string {
	words := []string{"reset", "on", "#" + a.hash}
	if a.former != "" {
		words = append(words, "#"+a.former)
	}
	return append(words, strings.Fields(a.rules)...)
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
