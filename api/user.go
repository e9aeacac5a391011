package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) userRoutes() []route {
	const users, user = "/instances/{id}/users", "/instances/{id}/users/{user}"
	return []route{
		{http.MethodGet, users, plain("instance:extension:user:index", s.listUsers)},
		{http.MethodPost, users, withBody(s, "instance:extension:user:create", s.createUsers)},
		{http.MethodPut, users, withBody(s, "instance:extension:user:update_all", s.setUserPasswords)},
		{http.MethodGet, user, plain("instance:extension:user:show", s.showUser)},
		{http.MethodPut, user, withBody(s, "instance:extension:user:update", s.updateUser)},
		{http.MethodDelete, user, plain("instance:extension:user:delete", s.deleteUser)},
		{http.MethodGet, user + "/databases", plain("instance:extension:user_access:index", s.listGrants)},
		{http.MethodPut, user + "/databases", withBody(s, "instance:extension:user_access:update", s.grantUser)},
		{http.MethodDelete, user + "/databases/{name}", plain("instance:extension:user_access:delete", s.revokeUser)},
	}
}

// listUsers pages by name. The marker may also be written name@%, as Trove's clients know it.
func (s *Server) listUsers(r *request) (*answer, error) {
	marker, _ := splitHost(r.URL.Query().Get("marker"))
	p, err := s.pageBy(r, marker)
	if err != nil {
		return nil, err
	}
	users, more, err := s.Control.Users(r.Context(), r.caller, r.param("id"), p.limit, p.marker)
	if err != nil {
		return nil, err
	}
	list := wire.UserList{Users: []wire.User{}}
	for i := range users {
		list.Users = append(list.Users, renderUser(&users[i]))
	}
	if more {
		list.Links, list.UsersLinks = s.nextLinks(r, users[len(users)-1].Name)
	}
	return ok(list)
}

func (s *Server) showUser(r *request) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	user, err := s.Control.User(r.Context(), r.caller, r.param("id"), name)
	if err != nil {
		return nil, err
	}
	return ok(wire.UserEnvelope{User: renderUser(user)})
}

func (s *Server) listGrants(r *request) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	user, err := s.Control.User(r.Context(), r.caller, r.param("id"), name)
	if err != nil {
		return nil, err
	}
	return ok(wire.GrantList{Databases: renderUser(user).Databases})
}

func renderUser(u *dbaas.User) wire.User {
	shown := wire.User{Name: u.Name, Host: anyHost, Databases: []wire.Grant{}}
	for _, g := range u.Grants {
		shown.Databases = append(shown.Databases, wire.Grant{Name: g})
	}
	return shown
}

func (s *Server) createUsers(r *request, body *wire.UsersRequest) (*answer, error) {
	list, err := usersWish(body)
	if err != nil {
		return nil, err
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.CreateUsers(r.Context(), r.caller, r.param("id"), list)
	})
}

func (s *Server) setUserPasswords(r *request, body *wire.UsersRequest) (*answer, error) {
	list, err := usersWish(body)
	if err != nil {
		return nil, err
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.SetUserPasswords(r.Context(), r.caller, r.param("id"), list)
	})
}

// usersWish checks the shape of what is wished. Which names may be had, the use case checks.
func usersWish(body *wire.UsersRequest) ([]control.NewUser, error) {
	if len(body.Users) == 0 {
		return nil, badRequest("users is required: a list of {\"name\", \"password\", \"databases\"}.")
	}
	var list []control.NewUser
	for _, u := range body.Users {
		if err := requireHost(u.Host); err != nil {
			return nil, err
		}
		if err := requireName("users.password", u.Password); err != nil {
			return nil, err
		}
		list = append(list, control.NewUser{Name: u.Name, Password: u.Password, Grants: grantsWish(u.Databases)})
	}
	return list, nil
}

func grantsWish(list []wire.Grant) []string {
	var grants []string
	for _, g := range list {
		grants = append(grants, g.Name)
	}
	return grants
}

func (s *Server) updateUser(r *request, body *wire.UserUpdateRequest) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	u := body.User
	if u == nil || u.Name == nil && u.Password == nil && u.Host == nil {
		return nil, badRequest("user is required: {\"name\"} or {\"password\"}, what is to be changed.")
	}
	if err := requireHost(u.Host); err != nil {
		return nil, err
	}
	if u.Password != nil {
		if err := requireName("user.password", *u.Password); err != nil {
			return nil, err
		}
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.UpdateUser(r.Context(), r.caller, r.param("id"), name, control.UpdateUser{Name: u.Name, Password: u.Password})
	})
}

func (s *Server) deleteUser(r *request) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.DeleteUser(r.Context(), r.caller, r.param("id"), name)
	})
}

func (s *Server) grantUser(r *request, body *wire.GrantList) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	if len(body.Databases) == 0 {
		return nil, badRequest("databases is required: a list of {\"name\"}, what is granted.")
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.GrantUser(r.Context(), r.caller, r.param("id"), name, grantsWish(body.Databases))
	})
}

func (s *Server) revokeUser(r *request) (*answer, error) {
	name, err := userParam(r)
	if err != nil {
		return nil, err
	}
	return s.userChange(r, func() (string, error) {
		return s.Control.RevokeUser(r.Context(), r.caller, r.param("id"), name, r.param("name"))
	})
}

// userChange does a change and waits for it: whoever was given an account wants to log in.
func (s *Server) userChange(r *request, change func() (operationID string, err error)) (*answer, error) {
	id, err := change()
	if err != nil {
		return nil, err
	}
	return accepted(id), s.await(r, id)
}

// anyHost is where users may come from: access rules say more.
const anyHost = "%"

func requireHost(host *string) error {
	if host == nil || *host == "" || *host == anyHost {
		return nil
	}
	return badRequest("host can only be %q: who may connect from where is said by the instance's access rules.", anyHost)
}

// userParam is the name in the path: name or name@%. Clients that escape it twice are understood, for no name has a
// percent sign in it.
func userParam(r *request) (string, error) {
	raw := r.param("user")
	if again, err := url.PathUnescape(raw); err == nil {
		raw = again
	}
	name, host := splitHost(raw)
	return name, requireHost(&host)
}

// splitHost parts name@host at the last @.
func splitHost(text string) (name, host string) {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}
