package wire

// User is an account in a database. Its password is never shown.
type User struct {
	Name      string  `json:"name"`
	Host      string  `json:"host"` // always "%"
	Databases []Grant `json:"databases"`
}

// Grant is what an account may touch: for Redis a pattern of keys.
type Grant struct {
	Name string `json:"name"`
}

// UserList is a page of accounts.
type UserList struct {
	Users      []User `json:"users"`
	Links      []Link `json:"links,omitempty"`
	UsersLinks []Link `json:"users_links,omitempty"`
}

// UserEnvelope is the answer with one account.
type UserEnvelope struct {
	User User `json:"user"`
}

// UsersRequest makes accounts, or gives those that are there new passwords.
type UsersRequest struct {
	Users []UserRequest `json:"users"`
}

// UserRequest is the wish for an account.
type UserRequest struct {
	Name      string  `json:"name"`
	Password  string  `json:"password"`
	Host      *string `json:"host,omitempty"`
	Databases []Grant `json:"databases,omitempty"`
}

// UserUpdateRequest changes one account.
type UserUpdateRequest struct {
	User *UserUpdate `json:"user"`
}

// UserUpdate is a change of an account: at least one of the keys.
type UserUpdate struct {
	Name     *string `json:"name,omitempty"`
	Password *string `json:"password,omitempty"`
	Host     *string `json:"host,omitempty"`
}

// GrantList is what an account may touch, or is to be granted.
type GrantList struct {
	Databases []Grant `json:"databases"`
}
