package guest

import (
	"fmt"

	"github.com/grove-dbaas/grove/internal/secret"
)

// SealSecrets seals each secret so that only the guest that announced publicKey can read it.
func SealSecrets(publicKey []byte, secrets map[string]string) (Sealed, error) {
	sealed := Sealed{}
	for kind, value := range secrets {
		s, err := secret.SealTo(publicKey, []byte(value))
		if err != nil {
			return nil, fmt.Errorf("seal %s: %w", kind, err)
		}
		sealed[kind] = s
	}
	return sealed, nil
}
