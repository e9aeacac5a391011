package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DirVolume is a directory in place of a volume, for those who may not mount: its size is accounted, not enforced.
type DirVolume struct {
	Dir string
	// SizeFile holds the size in bytes and is the provider's, who writes it anew when the volume grows. As a device's
	// node it is there exactly while the volume is. "": the volume is just this directory, of SizeBytes.
	SizeFile  string
	SizeBytes int64

	mu     sync.Mutex
	used   int64
	walked time.Time
}

var _ Volume = (*DirVolume)(nil)

// walkEvery is how long a measured usage serves.
const walkEvery = 2 * time.Second

// EnsureMounted makes the directory, unless a provider has to.
func (v *DirVolume) EnsureMounted(ctx context.Context) error {
	if v.SizeFile == "" {
		if err := os.MkdirAll(v.Dir, 0o700); err != nil {
			return fmt.Errorf("make volume: %w", err)
		}
		return nil
	}
	ok, err := v.Mounted(ctx)
	if err == nil && !ok {
		err = fmt.Errorf("volume %s is not attached", v.Dir)
	}
	return err
}

// Mounted tells whether the directory is there.
func (v *DirVolume) Mounted(context.Context) (bool, error) {
	if v.SizeFile != "" && !exists(v.SizeFile) {
		return false, nil
	}
	fi, err := os.Stat(v.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.IsDir(), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Grow has nothing to do: a directory is as large as it is said to be.
func (v *DirVolume) Grow(ctx context.Context) error {
	if ok, err := v.Mounted(ctx); err != nil || ok {
		return err
	}
	return fmt.Errorf("grow volume: %s is not there", v.Dir)
}

// Usage gives used and total bytes. The first comes from a walk, and may be some seconds old.
func (v *DirVolume) Usage(ctx context.Context) (used, total int64, err error) {
	total = v.SizeBytes
	if v.SizeFile != "" {
		b, err := os.ReadFile(v.SizeFile)
		if err != nil {
			return 0, 0, fmt.Errorf("measure volume: %w", err)
		}
		if total, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("measure volume: %s: %w", v.SizeFile, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.walked.IsZero() || time.Since(v.walked) > walkEvery {
		if v.used, err = diskUsage(ctx, v.Dir); err != nil {
			return 0, 0, fmt.Errorf("measure volume: %w", err)
		}
		v.walked = time.Now()
	}
	return v.used, total, nil
}

// diskUsage sums what the files below dir occupy. Files come and go meanwhile.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil // gone since
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}
