package secret

import "crypto/rand"

// passwordAlphabet has 64 characters, none of which needs care in a URL, a shell or a configuration file.
const passwordAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

const passwordLength = 36

// GeneratePassword makes a password of 216 random bits. It begins with a letter, for it may become an argument.
func GeneratePassword() string {
	b := make([]byte, passwordLength)
	for {
		rand.Read(b) // never fails (crypto/rand)
		for i := range b {
			b[i] = passwordAlphabet[b[i]&63]
		}
		if first := b[0] | 0x20; first >= 'a' && first <= 'z' {
			return string(b)
		}
	}
}
