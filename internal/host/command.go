package host

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Command is one run of a short program. Whatever is secret goes into Stdin: Argv is shown in errors, and to everyone
// on the machine.
type Command struct {
	Argv  []string
	Env   []string // the whole environment; nil: a plain one, nothing inherited but PATH
	Dir   string
	Stdin []byte
}

// Run runs a program and gives what it wrote to standard output.
func Run(ctx context.Context, argv ...string) (string, error) {
	return Command{Argv: argv}.Run(ctx)
}

// Run runs the command and gives its standard output. The error holds the arguments, how it ended and the last that it
// wrote.
func (c Command) Run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	if cmd.Env == nil {
		cmd.Env = plainEnv()
	}
	if c.Stdin != nil {
		cmd.Stdin = bytes.NewReader(c.Stdin)
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		words := lastLines(slices.Concat(out.Bytes(), errOut.Bytes()))
		return out.String(), fmt.Errorf("run %s: %w: %s", strings.Join(c.Argv, " "), err, words)
	}
	return out.String(), nil
}

// The bounds of what is quoted of a program's output.
const (
	tailBytes = 4096
	tailLines = 20
)

// lastLines gives the last lines of an output.
func lastLines(b []byte) string {
	if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
	}
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(b), "?")), "\n")
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return strings.Join(lines, "\n")
}
