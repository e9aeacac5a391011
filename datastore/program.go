package datastore

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Program finds, among programs, the first that is of the version, and the number that it reports of itself. Data that
// a newer one has touched are lost to the older, so that another one will not do.
func (v Version) Program(ctx context.Context, programs []string) (path, number string, err error) {
	if len(programs) == 0 {
		return "", "", dbaas.Errorf(dbaas.NotFound, "The program %s is not installed on the server.", v.Binary)
	}
	var others []string
	for _, path := range programs {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		if ctx.Err() != nil {
			return "", "", fmt.Errorf("ask %s for its version: %w", path, ctx.Err())
		}
		if err != nil {
			others = append(others, err.Error())
			continue
		}
		says := strings.TrimSpace(string(out))
		number, ok := strings.CutPrefix(says, v.Says)
		number, _, _ = strings.Cut(number, " ")
		if ok && strings.HasPrefix(number, v.Number) {
			return path, number, nil
		}
		others = append(others, fmt.Sprintf("%q", says))
	}
	return "", "", dbaas.Errorf(dbaas.Conflict, "The program %s on the server is not of version %s: it says %s.", v.Binary, v.Number, strings.Join(others, ", "))
}
