// Package cloud is the seam to what provides servers, volumes and networks.
//
// No method waits or polls: it starts something, or tells how far it has come, and the engine comes back. Ensure looks
// up by a name and tag chosen before the call, creates only what is absent, and where it finds two keeps the one recorded
// (else the oldest) and deletes the others. Delete of what is gone is success. A wish that the provider refuses for good
// is a dbaas.Error (BadRequest, OverLimit, NotFound); anything else is worth a retry. Package cloudtest holds every
// implementation to this.
package cloud

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Provider is a region of a cloud.
type Provider interface {
	Compute
	Volumes
	Network
	// Catalog tells what is on offer.
	Catalog(ctx context.Context) (*dbaas.Catalog, error)
	// Owned lists everything in the cloud that carries the tag of an owner: a guest, the instance of an address, the group of
	// what its guests share; with "" everything that carries any of ours. What it asks of the cloud grows with the pages of
	// the cloud's lists, not with what is in them.
	Owned(ctx context.Context, ownerID string) ([]Resource, error)
}

// Resource is something in the cloud that carries our tag: Kind is one of the below, GuestID whose it is.
type Resource struct {
	Kind    string
	ID      string
	GuestID string
	// Surplus: no row names one of the kind, and the cloud has another of the guest's, which is in use.
	Surplus bool
}

// The kinds of resources.
const (
	KindServer        = "server"
	KindVolume        = "volume"
	KindPort          = "port"
	KindSecurityGroup = "security_group"
	KindAddress       = "address"
	KindPublicAddress = "public_address"
	// KindServerGroup and KindPeersGroup belong to a group: where its servers run, and the security group that its guests
	// share.
	KindServerGroup = "server_group"
	KindPeersGroup  = "peers_group"
)

// ServerStatus is how a server stands. The words are Nova's.
type ServerStatus string

// The statuses of a server that the workflows tell apart; all others count as "on its way".
const (
	ServerBuild        ServerStatus = "BUILD"
	ServerActive       ServerStatus = "ACTIVE"
	ServerShutoff      ServerStatus = "SHUTOFF"
	ServerReboot       ServerStatus = "REBOOT"
	ServerResize       ServerStatus = "RESIZE"
	ServerVerifyResize ServerStatus = "VERIFY_RESIZE"
	ServerError        ServerStatus = "ERROR"
)

// Server is a server as the provider sees it.
type Server struct {
	ID       string
	Name     string
	Status   ServerStatus
	FlavorID string
	HostDown bool   // the provider knows that the machine beneath it is dead
	Fault    string // the provider's reason for ERROR; for operators
	NoRoom   bool   // the provider found no machine for it: ERROR
}

// ServerSpec is a wish for a server. Name and GuestID are chosen before the call and found again by.
type ServerSpec struct {
	GuestID    string
	Name       string // has GuestID in it: a cloud may find its servers by their names only
	FlavorID   string
	Image      string
	ImageTags  []string
	Zone       string
	GroupID    string // server group for locality, "" for none
	PortID     string
	VolumeID   string
	RecordedID string            // the server in the guest's row, kept where there are two
	UserData   []byte            // the agent's bootstrap: its configuration file (see guest.Bootstrap)
	Metadata   map[string]string // shown to operators
}

// Compute provides servers.
type Compute interface {
	// EnsureServerGroup gives a group's id for a locality policy ("affinity", "anti-affinity", ...).
	EnsureServerGroup(ctx context.Context, groupID, policy string) (string, error)
	// EnsureServer makes a server on its port, with its volume attached, and starts it. Each guest has one.
	EnsureServer(ctx context.Context, s ServerSpec) (*Server, error)
	// Server finds a server; dbaas.NotFound when it is gone.
	Server(ctx context.Context, id string) (*Server, error)
	// Console gives the last lines of a server's console, for operators; "" where there is none.
	Console(ctx context.Context, id string, lines int) (string, error)
	// ResizeServer begins a change of flavor that ends in VERIFY_RESIZE; with the flavor already there it is success.
	ResizeServer(ctx context.Context, id, flavorID string) error
	// ConfirmResize makes a resize final, RevertResize begins the way back; where no resize waits, both are success.
	ConfirmResize(ctx context.Context, id string) error
	RevertResize(ctx context.Context, id string) error
	// RebootServer, StopServer, StartServer begin what they say; Server tells when it is done. To stop what is off and to
	// start what runs is success. StartServer is also another try for a server in ERROR.
	RebootServer(ctx context.Context, id string) error
	StopServer(ctx context.Context, id string) error
	StartServer(ctx context.Context, id string) error
	// PowerOffServer ends a server at once, as a loss of power does, whatever is being done to it. When Server says SHUTOFF
	// nothing of it runs any more; StartServer brings it back. To power off what is off is success.
	PowerOffServer(ctx context.Context, id string) error
	// RebuildServer replaces the server's root disk; volume, port and id stay.
	RebuildServer(ctx context.Context, id string, s ServerSpec) error
	// DeleteServer deletes a server in whatever state; its volume stays, and is free when the server is gone.
	DeleteServer(ctx context.Context, id string) error
	DeleteServerGroup(ctx context.Context, groupID string) error
}

// VolumeStatus is how a volume stands. The words are Cinder's.
type VolumeStatus string

// The statuses of a volume that the workflows tell apart.
const (
	VolumeCreating  VolumeStatus = "creating"
	VolumeAvailable VolumeStatus = "available"
	VolumeInUse     VolumeStatus = "in-use"
	VolumeExtending VolumeStatus = "extending"
	VolumeError     VolumeStatus = "error"
)

// Volume is a volume as the provider sees it.
type Volume struct {
	ID       string
	Status   VolumeStatus
	SizeGB   int
	ServerID string // where it is attached, "" when it is not
	Fault    string
}

// VolumeSpec is a wish for a volume.
type VolumeSpec struct {
	GuestID    string
	Name       string
	SizeGB     int
	Type       string
	Zone       string
	RecordedID string
}

// Volumes provides volumes.
type Volumes interface {
	EnsureVolume(ctx context.Context, v VolumeSpec) (*Volume, error)
	// Volume finds a volume; dbaas.NotFound when it is gone.
	Volume(ctx context.Context, id string) (*Volume, error)
	// ExtendVolume begins to grow a volume, attached or not; one that is as large already is success.
	ExtendVolume(ctx context.Context, id string, sizeGB int) error
	// AttachVolume attaches a volume to a server; one that is attached there is success, elsewhere is refused.
	AttachVolume(ctx context.Context, id, serverID string) error
	// DetachVolume detaches a volume; one that is not attached there is success. While it is mounted it may fail, which
	// is worth a retry.
	DetachVolume(ctx context.Context, id, serverID string) error
	// DeleteVolume deletes a volume. While it is attached that fails, which is worth a retry: its server may be going.
	DeleteVolume(ctx context.Context, id string) error
}

// Port is a network interface with an address.
type Port struct {
	ID      string
	Address string
	Network string
}

// PortSpec is a wish for a port.
type PortSpec struct {
	GuestID         string
	Name            string
	Nic             dbaas.Nic // zero: the default network
	SecurityGroupID string
	TCPPorts        []int // that the database listens on: a provider whose addresses are shared picks one where they are free
	RecordedID      string
}

// SecurityGroupSpec is who may reach a guest: the manifest's ports from the allowed networks.
type SecurityGroupSpec struct {
	GuestID      string
	Name         string
	TCPPorts     []int
	AllowedCIDRs []string  // empty: only the instance's own network
	Nic          dbaas.Nic // where that is; zero: the default network
	// PeersID is shared by guests that reach each other whatever AllowedCIDRs says: on TCPPorts and on PeerPorts, which
	// nobody else reaches. A provider with security groups has one of this name, as the remote side of those rules.
	PeersID   string
	PeerPorts []int
}

// Address is an address that stays while what it leads to changes.
type Address struct {
	ID      string
	Address string
	Network string
	Public  string // how the world reaches it, "" for not at all
}

// AddressSpec is a wish for an address. OwnerID, which is its tag, and Name are chosen before the call and found again by.
type AddressSpec struct {
	OwnerID    string // whose it is: an instance
	Name       string
	Nic        dbaas.Nic // zero: the default network
	TCPPorts   []int     // on which it is reached, and what it leads to listens
	Public     bool      // the world is to reach it too; a provider that has no such addresses gives none
	RecordedID string
}

// Network provides ports, addresses, and the rules around them.
type Network interface {
	// EnsureSecurityGroup makes the group, or sets its rules anew, and gives its id.
	EnsureSecurityGroup(ctx context.Context, s SecurityGroupSpec) (string, error)
	EnsurePort(ctx context.Context, p PortSpec) (*Port, error)
	DeletePort(ctx context.Context, id string) error
	// DeleteSecurityGroup deletes a group; with the last of its guests the one that peers share goes by itself.
	DeleteSecurityGroup(ctx context.Context, id string) error
	// EnsureAddress makes an address, which leads nowhere at first, or sets its TCP ports, and whether it has a public one, anew.
	EnsureAddress(ctx context.Context, a AddressSpec) (*Address, error)
	// PointAddress makes an address lead to a port, "" to nowhere. When it returns new connections go there, and old ones
	// to elsewhere are cut. An epoch below the highest seen is refused with dbaas.Conflict, so that whoever decided earlier
	// comes too late; of the same target only the epoch is noted. A port that is deleted is no address's target any more.
	PointAddress(ctx context.Context, addressID, portID string, epoch int64) error
	DeleteAddress(ctx context.Context, id string) error
}
