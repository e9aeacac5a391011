package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// NewUser is the wish for an account in a database.
type NewUser struct {
	Name     string
	Password string
	Grants   []string // what it may touch: for Redis, patterns of keys
}

// UpdateUser is a change of an account; nil fields stay as they are.
type UpdateUser struct {
	Name     *string
	Password *string
}

// Bounds of what all members of a group must be told at once.
const (
	mostUsers    = 100
	mostGrants   = 100
	longestGrant = 256
)

// userName is what engines, URLs and paging can all carry.
var userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Users lists a page of an instance's accounts by name, beginning after marker, and tells whether there are more.
func (s *Service) Users(ctx context.Context, c Caller, id string, limit int, marker string) ([]dbaas.User, bool, error) {
	all, err := s.users(ctx, c, id)
	if err != nil {
		return nil, false, err
	}
	all = slices.DeleteFunc(all, func(u dbaas.User) bool { return u.Name <= marker })
	if limit > 0 && len(all) > limit {
		return all[:limit], true, nil
	}
	return all, false, nil
}

func (s *Service) users(ctx context.Context, c Caller, id string) ([]dbaas.User, error) {
	v, _, err := s.userManifest(ctx, c, id)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Users(ctx, v.GroupID)
	slices.SortFunc(all, func(a, b dbaas.User) int { return strings.Compare(a.Name, b.Name) }) // by bytes on every database
	return all, err
}

// User shows an account.
func (s *Service) User(ctx context.Context, c Caller, id, name string) (*dbaas.User, error) {
	v, m, err := s.userManifest(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if err := requireOrdinary(m, name); err != nil {
		return nil, err
	}
	all, err := s.Store.Users(ctx, v.GroupID)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, userNotFound(name)
}

// CreateUsers makes accounts on every member of the instance's group, now and later.
func (s *Service) CreateUsers(ctx context.Context, c Caller, id string, list []NewUser) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		for _, n := range list {
			if err := requireNewUser(m, users, n.Name); err != nil {
				return nil, err
			}
			u := datastore.UserAccount{Name: n.Name, Hash: hashed(n.Password), Grants: []string{}}
			if err := grant(&u, n.Grants); err != nil {
				return nil, err
			}
			users = append(users, u)
		}
		return users, nil
	})
}

// SetUserPasswords gives accounts new passwords, by name. Open connections stay.
func (s *Service) SetUserPasswords(ctx context.Context, c Caller, id string, passwords []NewUser) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		for _, p := range passwords {
			u, err := users.find(m, p.Name)
			if err != nil {
				return nil, err
			}
			u.Hash = hashed(p.Password)
		}
		return users, nil
	})
}

// UpdateUser renames an account or gives it a new password.
func (s *Service) UpdateUser(ctx context.Context, c Caller, id, name string, update UpdateUser) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		u, err := users.find(m, name)
		if err != nil {
			return nil, err
		}
		if update.Name != nil && *update.Name != name {
			if err := requireNewUser(m, users, *update.Name); err != nil {
				return nil, err
			}
			u.Name = *update.Name
		}
		if update.Password != nil {
			u.Hash = hashed(*update.Password)
		}
		return users, nil
	})
}

// DeleteUser removes an account; its connections are cut.
func (s *Service) DeleteUser(ctx context.Context, c Caller, id, name string) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		if _, err := users.find(m, name); err != nil {
			return nil, err
		}
		return slices.DeleteFunc(users, func(u datastore.UserAccount) bool { return u.Name == name }), nil
	})
}

// GrantUser lets an account touch more.
func (s *Service) GrantUser(ctx context.Context, c Caller, id, name string, grants []string) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		u, err := users.find(m, name)
		if err != nil {
			return nil, err
		}
		return users, grant(u, grants)
	})
}

// RevokeUser takes one grant back.
func (s *Service) RevokeUser(ctx context.Context, c Caller, id, name, revoked string) (string, error) {
	return s.changeUsers(ctx, c, id, func(m *datastore.Manifest, users accounts) (accounts, error) {
		u, err := users.find(m, name)
		if err != nil {
			return nil, err
		}
		i := slices.Index(u.Grants, revoked)
		if i < 0 {
			return nil, dbaas.Errorf(dbaas.NotFound, "User %s has no grant of %q.", name, revoked)
		}
		u.Grants = slices.Delete(u.Grants, i, i+1)
		return users, nil
	})
}

// accounts are all of a group's.
type accounts []datastore.UserAccount

func (a accounts) find(m *datastore.Manifest, name string) (*datastore.UserAccount, error) {
	if err := requireOrdinary(m, name); err != nil {
		return nil, err
	}
	for i := range a {
		if a[i].Name == name {
			return &a[i], nil
		}
	}
	return nil, userNotFound(name)
}

// changeUsers, which may be asked of any member of a cluster, enqueues that the group's accounts become what edit makes of them. They are pending, as a new password is,
// until every member has them: one that refuses leaves the old ones in force.
func (s *Service) changeUsers(ctx context.Context, c Caller, id string, edit func(*datastore.Manifest, accounts) (accounts, error)) (string, error) {
	v, m, err := s.userManifest(ctx, c, id)
	if err != nil {
		return "", err
	}
	if v.ReplicaOf != "" {
		return "", dbaas.Errorf(dbaas.BadRequest, "Instance %s is a replica: change the users on its source, %s.", v.ID, v.ReplicaOf)
	}
	return s.beginChangeIf(ctx, c, id, dbaas.TaskUpdating, requireQuiet, func(tx *store.Tx, in *dbaas.Instance) (change, error) {
		others, err := otherMembers(tx, in)
		if err != nil {
			return change{}, err
		}
		before, err := groupAccounts(tx, in.GroupID)
		if err != nil {
			return change{}, err
		}
		shown := grantsOf(before)
		after, err := edit(m, before)
		if err != nil {
			return change{}, err
		}
		if len(after) > mostUsers {
			return change{}, dbaas.Errorf(dbaas.OverLimit, "An instance may have %d users.", mostUsers)
		}
		sealed, err := json.Marshal(after)
		if err != nil {
			return change{}, fmt.Errorf("encode the users: %w", err)
		}
		_, err = tx.PutSecret(in.GroupID, SecretPendingUsers, sealed)
		return change{kind: "set_users", lock: others, before: shown, after: grantsOf(after)}, err
	})
}

// otherMembers gives the ids of the other instances of an instance's group.
func otherMembers(tx *store.Tx, in *dbaas.Instance) ([]string, error) {
	members, err := tx.GroupMembers(in.GroupID)
	if err != nil {
		return nil, err
	}
	var ids []string
	for i := range members {
		if members[i].ID != in.ID {
			ids = append(ids, members[i].ID)
		}
	}
	return ids, nil
}

// groupAccounts reads what the members of a group were told last.
func groupAccounts(tx *store.Tx, groupID string) (all accounts, err error) {
	secretID, err := tx.FindSecret(groupID, SecretUsers)
	if err != nil || secretID == "" {
		return nil, err
	}
	value, err := tx.RevealSecret(secretID)
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(value, &all)
}

// grantsOf is what events record of accounts.
func grantsOf(all accounts) map[string][]string {
	grants := map[string][]string{}
	for _, u := range all {
		grants[u.Name] = slices.Clone(u.Grants)
	}
	return grants
}

// userManifest refuses datastores without accounts of tenants' own.
func (s *Service) userManifest(ctx context.Context, c Caller, id string) (*dbaas.InstanceView, *datastore.Manifest, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.manifest(&v.Version)
	if err != nil {
		return nil, nil, err
	}
	if !m.Capabilities.Users {
		return nil, nil, dbaas.Errorf(dbaas.NotImplemented, "Datastore %s has no users but its own.", m.Name)
	}
	return v, m, nil
}

func requireNewUser(m *datastore.Manifest, users accounts, name string) error {
	if err := requireOrdinary(m, name); err != nil {
		return err
	}
	if slices.ContainsFunc(users, func(u datastore.UserAccount) bool { return u.Name == name }) {
		return dbaas.Errorf(dbaas.BadRequest, "There is a user %s already.", name)
	}
	return nil
}

// requireOrdinary refuses names that are not a tenant's to have.
func requireOrdinary(m *datastore.Manifest, name string) error {
	switch {
	case name == m.Username, name == "root", strings.HasPrefix(name, "_"):
		return dbaas.Errorf(dbaas.BadRequest, "The user name %q is reserved.", name)
	case !userName.MatchString(name):
		return dbaas.Errorf(dbaas.BadRequest, "A user name has 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit.")
	}
	return nil
}

// grant adds grants that an account does not have yet.
func grant(u *datastore.UserAccount, grants []string) error {
	for _, g := range grants {
		if g == "" || len(g) > longestGrant || strings.ContainsFunc(g, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return dbaas.Errorf(dbaas.BadRequest, "What user %s is granted must be a pattern of keys such as \"app:*\": 1 to %d printable ASCII characters, no spaces.",
				u.Name, longestGrant)
		}
		if !slices.Contains(u.Grants, g) {
			u.Grants = append(u.Grants, g)
		}
	}
	if len(u.Grants) > mostGrants {
		return dbaas.Errorf(dbaas.OverLimit, "A user may have %d grants.", mostGrants)
	}
	return nil
}

func userNotFound(name string) error {
	return dbaas.Errorf(dbaas.NotFound, "User %s not found.", name)
}

// hashed is a password as databases keep it.
func hashed(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}
