package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
)

func TestSecrets(t *testing.T) { onBoth(t, testSecrets) }

func testSecrets(t *testing.T, s *Store) {
	var first, pending string
	do(t, s, func(tx *Tx) (err error) {
		if first, err = tx.PutSecret("i", "password", []byte("one")); err != nil {
			return err
		}
		if pending, err = tx.AddSecret("i", "password", []byte("two")); err != nil {
			return err
		}
		_, err = tx.PutSecret("i", "rpc-key", []byte("key"))
		return err
	})
	reveal := func(kind, want string) {
		t.Helper()
		if got, err := s.RevealSecret(t.Context(), "i", kind); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v), want %q", kind, got, err, want)
		}
	}
	reveal("password", "one")
	do(t, s, func(tx *Tx) error {
		row, err := tx.Secret(pending)
		if err != nil || row.OwnerID != "i" || row.Kind != "password" || row.Sealed != nil {
			t.Errorf("row %+v %v", row, err)
		}
		if b, err := tx.RevealSecret(pending); err != nil || string(b) != "two" {
			t.Errorf("pending is %q %v", b, err)
		}
		if id, err := tx.FindSecret("i", "password"); err != nil || id != first {
			t.Errorf("found %q %v, want the current one", id, err)
		}
		return nil
	})
	for range 2 {
		do(t, s, func(tx *Tx) error { return tx.SecretMoveTo(pending, "password") })
		reveal("password", "two")
	}
	reveal("rpc-key", "key")
	do(t, s, func(tx *Tx) error {
		if _, err := tx.RevealSecret(first); dbaas.ErrorCode(err) != dbaas.NotFound {
			t.Errorf("the replaced secret gives %v", err)
		}
		return firstError(tx.SecretMoveTo(pending, "old-password"), tx.DeleteSecret("none"))
	})
	reveal("old-password", "two")
	if _, err := s.RevealSecret(t.Context(), "i", "password"); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("a missing secret gives %v", err)
	}
	do(t, s, func(tx *Tx) error {
		if id, err := tx.FindSecret("i", "password"); id != "" || err != nil {
			t.Errorf("found %q %v", id, err)
		}
		if _, err := tx.PutSecret("i", "old-password", []byte("three")); err != nil {
			return err
		}
		return tx.DeleteSecret(pending)
	})
	reveal("old-password", "three")
	if n := count(t, s, "SELECT count(*) FROM secrets WHERE owner_id = 'i'"); n != 2 {
		t.Errorf("%d secrets are left", n)
	}
}

// A secret that is moved to another owner by whoever can write to the database does not open.
func TestSecretsAreBound(t *testing.T) { onBoth(t, testSecretsAreBound) }

func testSecretsAreBound(t *testing.T, s *Store) {
	do(t, s, func(tx *Tx) error {
		if _, err := tx.PutSecret("mine", "password", []byte("x")); err != nil {
			return err
		}
		return tx.db.Exec("UPDATE secrets SET owner_id = 'other' WHERE owner_id = 'mine'").Error
	})
	if _, err := s.RevealSecret(t.Context(), "other", "password"); !errors.Is(err, secret.ErrWrongKey) {
		t.Errorf("a moved secret gives %v", err)
	}
}

func TestRotateKeys(t *testing.T) { onBoth(t, testRotateKeys) }

func testRotateKeys(t *testing.T, s *Store) {
	const secrets = 450
	do(t, s, func(tx *Tx) error {
		for n := range secrets {
			if _, err := tx.PutSecret(fmt.Sprint("owner", n), "password", fmt.Append(nil, n)); err != nil {
				return err
			}
		}
		return nil
	})
	id, err := s.keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var sealed, rotated int
	errs := together(3, func(k int) (err error) {
		switch k {
		case 0:
			defer stop.Store(true)
			rotated, err = s.RotateKeys(context.Background())
		case 1: // goes on being used
			for !stop.Load() && err == nil {
				_, err = s.RevealSecret(context.Background(), "owner7", "password")
			}
		case 2:
			for !stop.Load() && err == nil {
				sealed++
				err = s.Tx(context.Background(), func(tx *Tx) error {
					_, err := tx.PutSecret("new", fmt.Sprint(sealed), []byte("x"))
					return err
				})
			}
		}
		return err
	})
	if err := errors.Join(errs...); err != nil || rotated < secrets {
		t.Errorf("%d sealed anew, %v", rotated, err)
	}
	if n := count(t, s, "SELECT count(*) FROM secrets WHERE key_id <> ?", id); n != 0 {
		t.Errorf("%d secrets are sealed with the old key", n)
	}
	for n := range secrets {
		if b, err := s.RevealSecret(t.Context(), fmt.Sprint("owner", n), "password"); err != nil || string(b) != fmt.Sprint(n) {
			t.Fatalf("secret %d is %q %v", n, b, err)
		}
	}
	if n, err := s.RotateKeys(t.Context()); n != 0 || err != nil {
		t.Errorf("a second rotation sealed %d (%v)", n, err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWrongMasterKeyIsRefused(t *testing.T) {
	for name, url := range map[string]string{
		"sqlite":   "sqlite://" + filepath.Join(t.TempDir(), "grove.db"),
		"postgres": "",
	} {
		t.Run(name, func(t *testing.T) {
			if url == "" {
				_, url = openPostgresURL(t)
			}
			dir := t.TempDir()
			k, err := secret.CreateKeyring(filepath.Join(dir, "master.key"))
			if err != nil {
				t.Fatal(err)
			}
			if name == "postgres" { // openPostgresURL bound it to a key of its own
				_, err := Open(t.Context(), Options{URL: url, Keyring: k})
				if !errors.Is(err, secret.ErrUnknownKey) {
					t.Errorf("opened with another key: %v", err)
				}
				return
			}
			s := openMigrated(t, Options{URL: url, Keyring: k})
			if _, err := Open(t.Context(), Options{URL: url, Keyring: newKeyring(t)}); !errors.Is(err, secret.ErrUnknownKey) {
				t.Errorf("opened with another key: %v", err)
			}
			id, err := k.ActiveKey()
			if err != nil {
				t.Fatal(err)
			}
			same, err := secret.ParseKeyring(id + ":" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), Options{URL: url, Keyring: same}); !errors.Is(err, secret.ErrWrongKey) {
				t.Errorf("opened with another key of the same id: %v", err)
			}
			if err := s.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the store logs and says in errors holds no value of any parameter.
func TestSecretsStayOutOfLogs(t *testing.T) { onBoth(t, testNoSecretsInLogs) }

func testNoSecretsInLogs(t *testing.T, s *Store) {
	var log bytes.Buffer
	s.write.Logger = slogger{slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	err := s.Tx(t.Context(), func(tx *Tx) error {
		return tx.db.Exec("INSERT INTO secrets (id, nonsense) VALUES (?, ?)", "hush-hush", []byte("hush-hush")).Error
	})
	if err == nil || contains(err.Error(), "hush") || contains(log.String(), "hush") || !contains(log.String(), "nonsense") {
		t.Errorf("error %v, log %s", err, log.String())
	}
}

func TestDatabaseFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grove.db")
	s := openMigrated(t, Options{URL: "sqlite://" + path})
	enqueue(t, s, "k")
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, info, err)
		}
	}
}
