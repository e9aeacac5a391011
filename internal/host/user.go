package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ServerUser is whom the units of a cloud's server run as, where its image has such a user.
const ServerUser = "grove-db"

// errNoUser is of a machine without the user that its units are to run as.
var errNoUser = errors.New("the machine has no such user")

// findUser gives whom units run as: nil for ourselves. Only root may run them as another.
func findUser(name string) (*Owner, error) {
	if name == "" || os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", errNoUser, name)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, fmt.Errorf("read the user %q: %w", name, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, fmt.Errorf("read the user %q: %w", name, err)
	}
	return &Owner{UID: uid, GID: gid}, nil
}

// credential is whom a process of the owner runs as: none of our groups.
func (o *Owner) credential() *syscall.Credential {
	if o == nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
}

// WriteShared writes a file that the units may read, and nobody else; they may not change it where they run as another user.
func (h *Host) WriteShared(path string, data []byte) error {
	if h.Owner == nil {
		return WriteFile(path, data, 0o600, nil)
	}
	return WriteFile(path, data, 0o640, &Owner{UID: -1, GID: h.Owner.GID})
}

// Share lets units that run as another user read a directory of ours and put files of their own into it, such as a socket;
// what is ours they cannot remove. What they left there is removed. None of them may run.
func (h *Host) Share(dir string) error {
	if h.Owner == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && (info.Mode().Type() == fs.ModeSocket || ownerOf(info) == h.Owner.UID) {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("share %s: %w", dir, err)
		}
	}
	return errors.Join(os.Chown(dir, -1, h.Owner.GID), os.Chmod(dir, os.ModeSticky|0o770), letThrough(filepath.Dir(dir)))
}

// Entrust gives a directory and all that is in it to the user that the units run as, whoever had it: a volume may come from a
// machine where that user had another number. None of them may run. Links are followed nowhere.
func (h *Host) Entrust(dir string) error {
	if h.Owner == nil {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("entrust %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil || ownerOf(info) == h.Owner.UID {
			return err
		}
		return root.Lchown(path, h.Owner.UID, h.Owner.GID)
	})
	if err != nil {
		return fmt.Errorf("entrust %s: %w", dir, err)
	}
	return letThrough(filepath.Dir(dir))
}

// letThrough lets others reach what is in a directory, without seeing what there is.
func letThrough(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o001 != 0 {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|0o001)
}

func ownerOf(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}
