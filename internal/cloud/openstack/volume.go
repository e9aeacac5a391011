package openstack

import (
	"context"
	"fmt"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func volumeView(v *volumes.Volume) *cloud.Volume {
	seen := &cloud.Volume{ID: v.ID, Status: cloud.VolumeStatus(v.Status), SizeGB: v.Size}
	if len(v.Attachments) > 0 {
		seen.ServerID = v.Attachments[0].ServerID
	}
	return seen
}

func (s *session) volumeByID(ctx context.Context, id string) (*volumes.Volume, error) {
	v, err := volumes.Get(ctx, s.volume, id).Extract()
	return v, act(err, "volume", id)
}

// volumesOf lists the volumes of a guest, the oldest first; of all guests with "".
func (s *session) volumesOf(ctx context.Context, guestID, name string) ([]volumes.Volume, error) {
	oldest := volumes.ListOpts{Name: name, Sort: "created_at:asc"}
	if guestID != "" {
		oldest.Metadata = map[string]string{guestKey: guestID}
	}
	all, err := listed(ctx, "volumes", volumes.List(s.volume, oldest), volumes.ExtractVolumes)
	return slices.DeleteFunc(all, func(v volumes.Volume) bool {
		owner := v.Metadata[guestKey]
		return owner == "" || guestID != "" && owner != guestID || v.Status == "deleting"
	}), err
}

// EnsureVolume implements [cloud.Volumes].
func (c *Cloud) EnsureVolume(ctx context.Context, spec cloud.VolumeSpec) (*cloud.Volume, error) {
	if spec.SizeGB <= 0 {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A volume has at least 1 GB, not %d.", spec.SizeGB)
	}
	return once(c, "volume "+spec.Name+spec.RecordedID, func() (*cloud.Volume, error) {
		s, err := c.session(ctx)
		if err != nil {
			return nil, err
		}
		found, err := s.volumesOf(ctx, spec.GuestID, spec.Name)
		if err != nil {
			return nil, err
		}
		kept, surplus := choose(found, spec.RecordedID, func(v *volumes.Volume) string { return v.ID })
		for _, one := range surplus {
			if err := s.deleteVolume(ctx, one.ID); err != nil {
				return nil, err
			}
		}
		if kept != nil {
			return volumeView(kept), nil
		}
		made, err := volumes.Create(ctx, s.volume, volumes.CreateOpts{
			Name: spec.Name, Size: spec.SizeGB, VolumeType: spec.Type, AvailabilityZone: spec.Zone,
			Metadata: map[string]string{guestKey: spec.GuestID},
		}, nil).Extract()
		if err != nil {
			return nil, refused(err, "volume")
		}
		return volumeView(made), nil
	})
}

// Volume implements [cloud.Volumes].
func (c *Cloud) Volume(ctx context.Context, id string) (*cloud.Volume, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	v, err := s.volumeByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return volumeView(v), nil
}

// ExtendVolume implements [cloud.Volumes].
func (c *Cloud) ExtendVolume(ctx context.Context, id string, sizeGB int) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	v, err := s.volumeByID(ctx, id)
	switch {
	case err != nil:
		return err
	case v.Status == string(cloud.VolumeExtending):
		return fmt.Errorf("volume %s is being extended", id)
	case v.Size == sizeGB:
		return nil
	case v.Size > sizeGB:
		return dbaas.Errorf(dbaas.BadRequest, "The volume has %d GB already; it cannot be made smaller.", v.Size)
	}
	err = volumes.ExtendSize(ctx, s.volume, id, volumes.ExtendSizeOpts{NewSize: sizeGB}).ExtractErr()
	if refusal := refused(err, "larger volume"); dbaas.ErrorCode(refusal) == dbaas.OverLimit {
		return refusal
	}
	return act(err, "volume", id)
}

// AttachVolume implements [cloud.Volumes].
func (c *Cloud) AttachVolume(ctx context.Context, id, serverID string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	v, err := s.volumeByID(ctx, id)
	if err != nil {
		return err
	}
	switch attached := volumeView(v).ServerID; attached {
	case serverID:
		return nil
	case "":
		return s.attachVolume(ctx, id, serverID)
	default:
		return dbaas.WrapError(fmt.Errorf("volume %s is attached to server %s", id, attached), dbaas.BadRequest, "The volume is attached to another server.")
	}
}

// DetachVolume implements [cloud.Volumes]. Only Nova may end an attachment (CVE-2023-2088).
func (c *Cloud) DetachVolume(ctx context.Context, id, serverID string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	err = volumeattach.Delete(ctx, s.compute, serverID, id).ExtractErr()
	return gone(err, "attachment of volume", id)
}

// DeleteVolume implements [cloud.Volumes].
func (c *Cloud) DeleteVolume(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return s.deleteVolume(ctx, id)
}

func (s *session) deleteVolume(ctx context.Context, id string) error {
	return gone(volumes.Delete(ctx, s.volume, id, volumes.DeleteOpts{}).ExtractErr(), "volume", id)
}
