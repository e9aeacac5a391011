package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newFile(t *testing.T) (*Keyring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	k, err := CreateKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

func mustSeal(t *testing.T, k *Keyring, value string) (id string, sealed []byte) {
	t.Helper()
	id, sealed, err := k.Seal("owner", "kind", []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return id, sealed
}

func TestSealAndOpen(t *testing.T) {
	k, path := newFile(t)
	for _, value := range []string{"", "x", strings.Repeat("long", 1000)} {
		id, sealed := mustSeal(t, k, value)
		if got, err := k.Open("owner", "kind", id, sealed); err != nil || string(got) != value {
			t.Errorf("opened %q %v, want %q", got, err, value)
		}
		if len(value) > 8 && bytes.Contains(sealed, []byte(value[:8])) { // shorter ones are there by chance
			t.Error("the value is readable")
		}
		again, err := LoadKeyring(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Open("owner", "kind", id, sealed); err != nil || string(got) != value {
			t.Errorf("the file's keys open %q %v", got, err)
		}
	}
	_, one := mustSeal(t, k, "same")
	_, two := mustSeal(t, k, "same")
	if bytes.Equal(one, two) {
		t.Error("equal values are sealed equally")
	}
}

func TestOpenRefuses(t *testing.T) {
	k, _ := newFile(t)
	other, _ := newFile(t)
	id, sealed := mustSeal(t, k, "value")
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another owner":               func() ([]byte, error) { return k.Open("owner2", "kind", id, sealed) },
		"another kind":                func() ([]byte, error) { return k.Open("owner", "kind2", id, sealed) },
		"owner and kind run together": func() ([]byte, error) { return k.Open("ownerk", "ind", id, sealed) },
		"damaged":                     func() ([]byte, error) { return k.Open("owner", "kind", id, damaged) },
		"too short":                   func() ([]byte, error) { return k.Open("owner", "kind", id, sealed[:5]) },
		"nothing":                     func() ([]byte, error) { return k.Open("owner", "kind", id, nil) },
	} {
		if got, err := open(); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if _, err := other.Open("owner", "kind", id, sealed); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("another keyring gives %v", err)
	}
}

func TestKeyFileIsRefused(t *testing.T) {
	good := "a:" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	for name, test := range map[string]struct {
		content string
		mode    os.FileMode
		says    string
	}{
		"readable by a group": {good, 0o640, "chmod 600"},
		"readable by all":     {good, 0o604, "chmod 600"},
		"empty":               {"# only a comment, with a comma\n", 0o600, "no key"},
		"no colon":            {"abc", 0o600, "entry 1"},
		"short key":           {"a:AAAA", 0o600, "32 bytes"},
		"not base64":          {good + "b:" + strings.Repeat("!", 44), 0o600, "entry 2"},
		"twice the same id":   {good + good, 0o600, "repeats"},
	} {
		path := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKeyring(path)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want a word of %q", name, err, test.says)
		}
		if err != nil && strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
	if _, err := LoadKeyring(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := LoadKeyring(t.TempDir()); err == nil {
		t.Error("a directory is a key file")
	}
}

func TestCreateKeyring(t *testing.T) {
	_, path := newFile(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if _, err := CreateKeyring(path); err == nil {
		t.Error("a key file was overwritten")
	}
	if _, err := CreateKeyring(filepath.Join(path, "below")); err == nil {
		t.Error("made below a file")
	}
}

// Two processes have the file open; one rotates, the other goes on without a restart.
func TestRotateIsSeenByOthers(t *testing.T) {
	one, path := newFile(t)
	two, err := LoadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	oldID, old := mustSeal(t, two, "old")
	newID, err := one.Rotate()
	if err != nil || newID == oldID {
		t.Fatalf("rotated to %q %v", newID, err)
	}
	id, sealed := mustSeal(t, one, "new")
	if id != newID {
		t.Errorf("sealed with %s, not with the new key %s", id, newID)
	}
	for _, k := range []*Keyring{one, two} {
		if got, err := k.Open("owner", "kind", id, sealed); err != nil || string(got) != "new" {
			t.Errorf("opened %q %v", got, err)
		}
		if got, err := k.Open("owner", "kind", oldID, old); err != nil || string(got) != "old" {
			t.Errorf("opened %q %v", got, err)
		}
	}
	if id, _ := mustSeal(t, two, "x"); id != newID {
		t.Errorf("the other process still seals with %s", id)
	}
	if _, err := two.Rotate(); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".master-key-*"))
	if len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.Seal("o", "k", nil); err == nil {
		t.Error("sealed although the key file is gone: the value would be lost with this process")
	}
}

func TestRotateTogether(t *testing.T) {
	one, path := newFile(t)
	two, err := LoadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	const each = 10
	done := make(chan error)
	for _, k := range []*Keyring{one, two} {
		go func() {
			var err error
			for range each {
				_, e := k.Rotate()
				err = errors.Join(err, e)
			}
			done <- err
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	all, err := LoadKeyring(path)
	if err != nil || len(all.keys) != 2*each+1 {
		t.Errorf("%d keys, %v: some were lost", len(all.keys), err)
	}
}

func TestParseKeyring(t *testing.T) {
	key := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }
	k, err := ParseKeyring(" new:" + key(1) + ", old:" + key(2) + "\n# a comment\n")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := k.ActiveKey(); id != "new" || err != nil {
		t.Errorf("active %q %v", id, err)
	}
	if _, err := k.Rotate(); err == nil {
		t.Error("rotated what has no file")
	}
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v", k, k, k)} {
		if strings.Contains(text, "old") || strings.Contains(text, "{") {
			t.Errorf("prints as %s", text)
		}
	}
	if _, err := ParseKeyring(""); err == nil {
		t.Error("no key is a keyring")
	}
}

func TestGeneratePassword(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		p := GeneratePassword()
		if len(p) < 32 || seen[p] || strings.Trim(p, passwordAlphabet) != "" || strings.ContainsAny(p[:1], "-_0123456789") {
			t.Fatalf("password %q", p)
		}
		seen[p] = true
	}
}

func TestSealTo(t *testing.T) {
	key, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealTo(key.Public(), []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*PrivateKey{key, again} {
		if got, err := k.Open(sealed); err != nil || string(got) != "password" {
			t.Errorf("opened %q %v", got, err)
		}
	}
	other, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed); err == nil {
		t.Error("another guest's key opens it")
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := key.Open(sealed); err == nil {
		t.Error("a damaged value opens")
	}
	if _, err := key.Open(nil); err == nil {
		t.Error("nothing opens")
	}
	if _, err := SealTo([]byte("short"), nil); err == nil {
		t.Error("sealed to no key")
	}
	if _, err := ParsePrivateKey([]byte("short")); err == nil {
		t.Error("parsed no key")
	}
	if s := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(s, "{") {
		t.Errorf("prints as %s", s)
	}
}
