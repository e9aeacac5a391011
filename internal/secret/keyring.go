// Package secret seals what must not be read by whoever reads the database, a message or a log: values at rest under
// master keys, and values on their way to a guest under a key that the guest made.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// keySize is that of AES-256.
const keySize = 32

// ErrUnknownKey tells that a value is sealed by a master key that the keyring does not hold.
var ErrUnknownKey = errors.New("the master key is not in the keyring")

// ErrWrongKey tells that a value does not open: another master key under the same id, or a row that was tampered with.
var ErrWrongKey = errors.New("the master key does not open the value")

// Keyring holds the master keys, one of which is active: it seals, all of them open. It is safe for concurrent use. A
// keyring from a file notices when another process has rotated the keys.
type Keyring struct {
	path string // "" when it did not come from a file

	mu   sync.Mutex
	seen os.FileInfo // of the file when it was read
	keys []masterKey // the active one first
}

type masterKey struct {
	id   string
	aead cipher.AEAD
	raw  []byte
}

// LoadKeyring reads a key file: one "id:base64 key" a line, the active key first. It refuses a file that others may read.
func LoadKeyring(path string) (*Keyring, error) {
	k := &Keyring{path: path}
	if err := k.reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// CreateKeyring makes a key file with one new key. It never overwrites a file.
func CreateKeyring(path string) (*Keyring, error) {
	key, err := newMasterKey()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("master key file %s exists already; it is not overwritten", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create master key file: %w", err)
	}
	if err := writeSynced(f, render([]masterKey{key})); err != nil {
		return nil, errors.Join(fmt.Errorf("write master key file %s: %w", path, err), os.Remove(path))
	}
	return LoadKeyring(path)
}

// ParseKeyring reads master keys from text, such as an environment variable: "id:base64 key" entries separated by
// commas or line ends, the active key first.
func ParseKeyring(text string) (*Keyring, error) {
	keys, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("master keys: %w", err)
	}
	return &Keyring{keys: keys}, nil
}

// Rotate adds a new key to the file and makes it the active one. Values sealed before still open; the store seals them
// anew.
func (k *Keyring) Rotate() (keyID string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.path == "" {
		return "", errors.New("the master keys come from the environment: put a new one in front of them there")
	}
	unlock, err := lockDir(filepath.Dir(k.path))
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := k.reloadLocked(); err != nil {
		return "", err
	}
	key, err := newMasterKey()
	if err != nil {
		return "", err
	}
	if err := replaceFile(k.path, render(append([]masterKey{key}, k.keys...))); err != nil {
		return "", fmt.Errorf("write master key file %s: %w", k.path, err)
	}
	return key.id, k.reloadLocked()
}

// ActiveKey is the id of the key that seals.
func (k *Keyring) ActiveKey() (string, error) {
	key, err := k.active()
	return key.id, err
}

// Seal encrypts a value with the active key, bound to its owner and kind: it opens for no other.
func (k *Keyring) Seal(owner, kind string, plaintext []byte) (keyID string, sealed []byte, err error) {
	key, err := k.active()
	if err != nil {
		return "", nil, err
	}
	nonce := make([]byte, key.aead.NonceSize(), key.aead.NonceSize()+len(plaintext)+key.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return "", nil, fmt.Errorf("make a nonce: %w", err)
	}
	return key.id, key.aead.Seal(nonce, nonce, plaintext, binding(owner, kind)), nil
}

// Open decrypts what Seal made for the same owner and kind.
func (k *Keyring) Open(owner, kind, keyID string, sealed []byte) ([]byte, error) {
	key, err := k.find(keyID)
	if err != nil {
		return nil, err
	}
	n := key.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("open the %s of %s: %w", kind, owner, ErrWrongKey)
	}
	plaintext, err := key.aead.Open(nil, sealed[:n], sealed[n:], binding(owner, kind))
	if err != nil {
		return nil, fmt.Errorf("open the %s of %s with key %s: %w", kind, owner, keyID, ErrWrongKey)
	}
	return plaintext, nil
}

// String hides the keys from logs.
func (k *Keyring) String() string { return "keyring" }

// GoString hides the keys from logs.
func (k *Keyring) GoString() string { return "keyring" }

// binding is the additional data of a sealed value. The zero byte keeps owner and kind apart.
func binding(owner, kind string) []byte { return []byte(owner + "\x00" + kind) }

// active gives the key that seals, after a look at the file: another process may have rotated it, and the old key
// should not be used for longer than needed.
func (k *Keyring) active() (masterKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refreshLocked(); err != nil {
		return masterKey{}, err
	}
	return k.keys[0], nil
}

func (k *Keyring) find(id string) (masterKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.lookup(id); ok {
		return key, nil
	}
	if err := k.refreshLocked(); err != nil {
		return masterKey{}, err
	}
	if key, ok := k.lookup(id); ok {
		return key, nil
	}
	return masterKey{}, fmt.Errorf("master key %q: %w", id, ErrUnknownKey)
}

func (k *Keyring) lookup(id string) (masterKey, bool) {
	for _, key := range k.keys {
		if key.id == id {
			return key, true
		}
	}
	return masterKey{}, false
}

func (k *Keyring) reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reloadLocked()
}

func (k *Keyring) refreshLocked() error {
	if k.path == "" {
		return nil
	}
	info, err := os.Stat(k.path)
	if err == nil && os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size() {
		return nil
	}
	return k.reloadLocked()
}

func (k *Keyring) reloadLocked() error {
	if k.path == "" {
		return nil
	}
	f, err := os.Open(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("master key file %s is missing: without it no secret in the database can be read", k.path)
	}
	if err != nil {
		return fmt.Errorf("open master key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at master key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("master key file %s is not a regular file", k.path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("master key file %s has mode %04o, so others may read it; run: chmod 600 %s", k.path, mode, k.path)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read master key file: %w", err)
	}
	keys, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("master key file %s: %w", k.path, err)
	}
	k.keys, k.seen = keys, info
	return nil
}

// parse reads "id:base64" entries. Its errors name them by their number, never by their content.
func parse(text string) (keys []masterKey, err error) {
	ids := map[string]bool{}
	for n, entry := range entries(text) {
		id, encoded, ok := strings.Cut(entry, ":")
		if !ok || id == "" {
			return nil, fmt.Errorf("entry %d is not of the form id:base64", n+1)
		}
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil || len(raw) != keySize {
			return nil, fmt.Errorf("entry %d does not hold %d bytes in base64", n+1, keySize)
		}
		if ids[id] {
			return nil, fmt.Errorf("entry %d repeats the id of another key", n+1)
		}
		ids[id] = true
		key, err := masterKeyOf(id, raw)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key was found")
	}
	return keys, nil
}

// entries splits text at line ends and commas, and leaves comments out.
func entries(text string) (list []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for entry := range strings.SplitSeq(line, ",") {
			if entry = strings.TrimSpace(entry); entry != "" {
				list = append(list, entry)
			}
		}
	}
	return list
}

func newMasterKey() (masterKey, error) {
	id, raw := make([]byte, 4), make([]byte, keySize)
	for _, b := range [][]byte{id, raw} {
		if _, err := rand.Read(b); err != nil {
			return masterKey{}, fmt.Errorf("make a master key: %w", err)
		}
	}
	return masterKeyOf(hex.EncodeToString(id), raw)
}

func masterKeyOf(id string, raw []byte) (masterKey, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return masterKey{}, fmt.Errorf("master key %q: %w", id, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return masterKey{}, fmt.Errorf("master key %q: %w", id, err)
	}
	return masterKey{id: id, aead: aead, raw: raw}, nil
}

func render(keys []masterKey) []byte {
	var b strings.Builder
	b.WriteString("# Grove's master keys, the active one first. Keep a copy in a safe place: a backup of the database\n" +
		"# without them is a backup without passwords.\n")
	for _, key := range keys {
		fmt.Fprintf(&b, "%s:%s\n", key.id, base64.StdEncoding.EncodeToString(key.raw))
	}
	return []byte(b.String())
}

// replaceFile writes aside, syncs and renames, so that a crash leaves the old keys or the new ones.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".master-key-*") // 0600
	if err != nil {
		return err
	}
	if err := writeSynced(f, content); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(f *os.File, content []byte) error {
	_, err := f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// lockDir keeps two processes from rotating at once, which would lose one's new key.
func lockDir(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
