package wire

// CA is the authority that signs the certificates of databases.
type CA struct {
	Certificate string      `json:"certificate"` // PEM; of all authorities, while one follows another
	NotAfter    Time        `json:"not_after"`   // of the one that signs
	Authorities []Authority `json:"authorities"`
}

// Authority is one of the authorities whose certificates clients trust.
type Authority struct {
	ID       string `json:"id"`
	Role     string `json:"role"` // "signs", "next", "old"
	NotAfter Time   `json:"not_after"`
}

// CAEnvelope is the answer with the authority.
type CAEnvelope struct {
	CA CA `json:"ca"`
}

// Certificate is what everybody may know of a database's certificate.
type Certificate struct {
	NotAfter Time     `json:"not_after"`
	Names    []string `json:"names"` // host names and addresses that it is good for
}

// SetTLS asks for another way in to a cluster.
type SetTLS struct {
	Mode string `json:"mode"` // "off", "both" or "on"
}
