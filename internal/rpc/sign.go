package rpc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// MinKey is the length of the shortest key that signs: as long as the hash, and never a word that somebody chose.
const MinKey = sha256.Size

// Sign puts the MAC of all other fields into m, under the key that its guest and the control plane share. It also
// brings m.Args into the form in which JSON will carry them, so that the receiver sees the signed bytes.
func Sign(key []byte, m *Envelope) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(m.Args) > 0 {
		args, err := json.Marshal(m.Args)
		if err != nil {
			return fmt.Errorf("sign message %s: %w", m.Method, err)
		}
		m.Args = args
	}
	m.MAC = envelopeMAC(key, m)
	return nil
}

// Verify refuses, with dbaas.Unauthorized, a message that was not signed under key or was changed since. It says
// nothing about age: see Deadline, and the order of (BootID, Sequence).
func Verify(key []byte, m *Envelope) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if !hmac.Equal(m.MAC, envelopeMAC(key, m)) {
		return dbaas.Errorf(dbaas.Unauthorized, "The message is not authentic.")
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) < MinKey {
		return dbaas.Errorf(dbaas.Unauthorized, "The message key has %d bytes; at least %d are needed.", len(key), MinKey)
	}
	return nil
}

// envelopeMAC covers every field but MAC, each with its length before it, so that no two messages read the same.
func envelopeMAC(key []byte, m *Envelope) []byte {
	h := hmac.New(sha256.New, key)
	writeFields(h, "grove envelope 1", m.ID, m.Topic, m.Method, string(m.Args), m.RequestID, m.TraceParent, m.Sender, m.BootID)
	writeNumbers(h, int64(m.Version), int64(m.Deadline), m.Epoch, m.Sequence)
	return h.Sum(nil)
}

// MAC is HMAC-SHA256 over fields, each with its length before it. The first field should name what is signed.
func MAC(key []byte, fields ...string) []byte {
	h := hmac.New(sha256.New, key)
	writeFields(h, fields...)
	return h.Sum(nil)
}

func writeFields(h hash.Hash, fields ...string) {
	for _, f := range fields {
		writeNumbers(h, int64(len(f)))
		h.Write([]byte(f))
	}
}

func writeNumbers(h hash.Hash, numbers ...int64) {
	var b [8]byte
	for _, n := range numbers {
		binary.BigEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
	}
}
