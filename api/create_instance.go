package api

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) createInstance(r *request, body *wire.CreateInstanceRequest) (*answer, error) {
	if i := body.Instance; i != nil && (asked(i.ReplicaOf) || asked(i.SlaveOf)) {
		return s.createReplicas(r, i)
	}
	wish, err := instanceWish(body.Instance)
	if err != nil {
		return nil, err
	}
	r.warnLoss(wish.Persistence)
	created, err := s.Control.CreateInstance(r.Context(), r.caller, wish)
	if err != nil {
		return nil, err
	}
	instance := s.renderInstanceDetail(r, created.View)
	instance.Password = created.Password
	return &answer{
		status: http.StatusOK, body: wire.InstanceEnvelope{Instance: instance}, operations: []string{created.OperationID},
		secrets: []secretField{{&instance.Password, created.PasswordSecretID}},
	}, nil
}

// instanceWish checks the shape of a wish. What exists and what fits, the use case checks.
func instanceWish(i *wire.CreateInstance) (control.CreateInstance, error) {
	var none control.CreateInstance
	if i == nil {
		return none, badRequest("instance is required.")
	}
	if err := requireBuilt(i); err != nil {
		return none, err
	}
	if i.ReplicaCount != nil {
		if n, ok := i.ReplicaCount.Int(); !ok || n != 1 {
			return none, badRequest("instance.replica_count can only be 1 without instance.replica_of.")
		}
	}
	if err := requireName("instance.name", i.Name); err != nil {
		return none, err
	}
	if i.FlavorRef.ID() == "" {
		return none, badRequest("instance.flavorRef is required: the id of a flavor.")
	}
	if i.Volume == nil {
		return none, badRequest("instance.volume is required: {\"size\": <GB>}.")
	}
	size, err := volumeSize("instance.volume.size", i.Volume.Size)
	if err != nil {
		return none, err
	}
	wish := control.CreateInstance{
		Name: i.Name, FlavorID: i.FlavorRef.ID(), VolumeSize: size, VolumeType: orBlank(i.Volume.Type),
		Zone: orBlank(i.AvailabilityZone), Region: orBlank(i.RegionName), Locality: orBlank(i.Locality),
		DeletionProtection: i.DeletionProtection,
		Persistence:        dbaas.Persistence(orBlank(i.Persistence)), Profile: orBlank(i.Profile), TLS: dbaas.TLSMode(orBlank(i.TLS)),
	}
	if i.Configuration != nil {
		wish.ConfigurationID = i.Configuration.ID()
	}
	if d := i.Datastore; d != nil {
		wish.Datastore, wish.Version, wish.VersionNumber = d.Type, d.Version, d.VersionNumber
	}
	if wish.HighAvailability, err = availabilityWish(i.HighAvailability); err != nil {
		return none, err
	}
	if wish.Nic, err = nicWish(i.Nics); err != nil {
		return none, err
	}
	if wish.Access, err = accessWish(i.Access); err != nil {
		return none, err
	}
	return wish, requireOptions(i)
}

// requireBuilt refuses, by its name, what is asked for and not there yet.
func requireBuilt(i *wire.CreateInstance) error {
	for _, key := range []struct {
		name  string
		value json.RawMessage
	}{
		{"restorePoint", i.RestorePoint},
		{"databases", i.Databases}, {"users", i.Users}, {"modules", i.Modules},
	} {
		if asked(key.value) {
			return notBuilt("instance." + key.name)
		}
	}
	return nil
}

// asked tells whether a key asks for anything: null and empty lists do not.
func asked(value json.RawMessage) bool {
	switch strings.Join(strings.Fields(string(value)), "") {
	case "", "null", "[]":
		return false
	default:
		return true
	}
}

func requireOptions(i *wire.CreateInstance) error {
	for _, option := range []struct {
		path  string
		value *string
	}{
		{"instance.availability_zone", i.AvailabilityZone}, {"instance.region_name", i.RegionName},
		{"instance.volume.type", volumeType(i.Volume)},
	} {
		if option.value != nil {
			if err := requireName(option.path, *option.value); err != nil {
				return err
			}
		}
	}
	if l := i.Locality; l != nil && !slices.Contains(localities(), *l) {
		return badRequest("instance.locality must be one of %s.", strings.Join(localities(), ", "))
	}
	if d := i.Datastore; d != nil {
		for _, part := range []string{d.Type, d.Version, d.VersionNumber} {
			if len(part) > maxName {
				return badRequest("instance.datastore: names have at most %d characters.", maxName)
			}
		}
	}
	if len(i.FlavorRef.ID()) > maxName {
		return badRequest("instance.flavorRef has at most %d characters.", maxName)
	}
	return nil
}

func volumeType(v *wire.VolumeRequest) *string {
	if v == nil {
		return nil
	}
	return v.Type
}

func localities() []string {
	return []string{"affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"}
}

// maxName is the length of names, in characters.
const maxName = 255

// requireName is the rule for non-empty strings (api reference 7.1).
func requireName(path, name string) error {
	alphanumeric := strings.ContainsFunc(name, func(c rune) bool {
		return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	})
	if length := len([]rune(name)); length > maxName || !alphanumeric {
		return badRequest("%s must have 1 to %d characters, one of them a letter or digit.", path, maxName)
	}
	return nil
}

func volumeSize(path string, size wire.Number) (int, error) {
	n, ok := size.Int()
	if !ok || n < 1 {
		return 0, badRequest("%s must be a whole number of GB, at least 1.", path)
	}
	return n, nil
}

func nicWish(nics []wire.Nic) (*dbaas.Nic, error) {
	switch len(nics) {
	case 0:
		return nil, nil
	case 1:
	default:
		return nil, badRequest("instance.nics may hold one nic.")
	}
	nic := dbaas.Nic{NetworkID: nics[0].NetworkID, SubnetID: nics[0].SubnetID, IPAddress: nics[0].IPAddress}
	if nics[0].NetID != "" {
		if nic.NetworkID != "" {
			return nil, badRequest("instance.nics[0]: net-id is another name for network_id; give one of them.")
		}
		nic.NetworkID = nics[0].NetID
	}
	switch {
	case nic.NetworkID == "" && nic.SubnetID == "":
		return nil, badRequest("instance.nics[0] needs network_id or subnet_id.")
	case len(nic.NetworkID) > maxName:
		return nil, badRequest("instance.nics[0].network_id has at most %d characters.", maxName)
	case nic.SubnetID != "" && uuid.Validate(nic.SubnetID) != nil:
		return nil, badRequest("instance.nics[0].subnet_id must be the id of a subnet.")
	case nic.IPAddress == "":
		return &nic, nil
	case nic.SubnetID == "":
		return nil, badRequest("instance.nics[0].ip_address needs subnet_id.")
	}
	if ip, err := netip.ParseAddr(nic.IPAddress); err != nil || !ip.Is4() {
		return nil, badRequest("instance.nics[0].ip_address must be an IPv4 address.")
	}
	return &nic, nil
}

func accessWish(a *wire.AccessRequest) (dbaas.Access, error) {
	access := dbaas.Access{AllowedCIDRs: []string{}}
	if a == nil {
		return access, nil
	}
	access.IsPublic = a.IsPublic
	for _, cidr := range a.AllowedCIDRs {
		if !validCIDR(cidr) {
			return access, badRequest("access.allowed_cidrs: %q is neither an IPv4 address nor a network like 203.0.113.0/24.", printable(cidr))
		}
		if slices.Contains(access.AllowedCIDRs, cidr) {
			return access, badRequest("access.allowed_cidrs names %s twice.", cidr)
		}
		access.AllowedCIDRs = append(access.AllowedCIDRs, cidr)
	}
	if len(access.AllowedCIDRs) > maxCIDRs {
		return access, badRequest("access.allowed_cidrs may hold %d networks.", maxCIDRs)
	}
	return access, nil
}

// maxCIDRs bounds the rules of one security group.
const maxCIDRs = 100

func validCIDR(s string) bool {
	if prefix, err := netip.ParsePrefix(s); err == nil {
		return prefix.Addr().Is4()
	}
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is4()
}

func orBlank(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
