package control

import (
	"context"
	"net/url"
	"regexp"
	"strings"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// AgentState is the state of an upgrade_agent operation: the program that the agents of an instance are to become.
type AgentState struct {
	Location string `json:"location"`
	SHA256   string `json:"sha256"`
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// UpgradeAgent replaces the guest agents of an instance, of a cluster's member too, by the program of that checksum, which
// they fetch from location. Databases run on. A fault that the tenant was told of stays.
func (s *Service) UpgradeAgent(ctx context.Context, c Caller, id string, state AgentState) (string, error) {
	u, err := url.Parse(state.Location)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", dbaas.Errorf(dbaas.BadRequest, "location must be an http(s) URL without a login, which guests can reach.")
	}
	if state.SHA256 = strings.ToLower(state.SHA256); !sha256Pattern.MatchString(state.SHA256) {
		return "", dbaas.Errorf(dbaas.BadRequest, "metadata.sha256 must be the SHA-256 of the agent's program: 64 hexadecimal digits.")
	}
	var operationID string
	err = s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		if err := requireQuiet(tx, in); err != nil {
			return err
		}
		in.Task = dbaas.TaskUpdating
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		operationID, err = s.enqueue(tx, c, change{kind: "upgrade_agent", instance: in, state: state, after: map[string]string{"agent_sha256": state.SHA256}})
		return err
	})
	if err != nil {
		return "", err
	}
	s.nudge(ctx, operationID)
	return operationID, nil
}
