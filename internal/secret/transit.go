package secret

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
)

// transitInfo names the purpose in every key that is derived, so that a message cannot be taken for another's.
const transitInfo = "grove guest secret v1"

// PrivateKey is the key that a guest makes for itself. Whoever has its public half can seal values to it.
type PrivateKey struct {
	key hpke.PrivateKey
}

// NewPrivateKey makes a key.
func NewPrivateKey() (*PrivateKey, error) {
	key, err := suiteKEM().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &PrivateKey{key: key}, nil
}

// ParsePrivateKey reads what Bytes gave.
func ParsePrivateKey(b []byte) (*PrivateKey, error) {
	key, err := suiteKEM().NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("parse the private key: %w", err)
	}
	return &PrivateKey{key: key}, nil
}

// Bytes encodes the key for a file that only its owner can read.
func (p *PrivateKey) Bytes() ([]byte, error) { return p.key.Bytes() }

// Public encodes the public half.
func (p *PrivateKey) Public() []byte { return p.key.PublicKey().Bytes() }

// Open decrypts what SealTo made for this key.
func (p *PrivateKey) Open(ciphertext []byte) ([]byte, error) {
	plaintext, err := hpke.Open(p.key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(transitInfo), ciphertext)
	if err != nil {
		return nil, fmt.Errorf("open a sealed value: %w", err)
	}
	return plaintext, nil
}

// String hides the key from logs.
func (p *PrivateKey) String() string { return "private key" }

// GoString hides the key from logs.
func (p *PrivateKey) GoString() string { return "private key" }

// SealTo encrypts a value so that only the holder of the private key can open it (RFC 9180, X25519).
func SealTo(public, plaintext []byte) ([]byte, error) {
	key, err := suiteKEM().NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("parse the public key: %w", err)
	}
	sealed, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(transitInfo), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal a value: %w", err)
	}
	return sealed, nil
}

func suiteKEM() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }
