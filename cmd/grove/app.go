package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

// Exit codes. A usage error is 64, as in sysexits.h, because 2 says that --wait timed out.
const (
	exitOK          = 0
	exitFailed      = 1
	exitTimedOut    = 2
	exitUsage       = 64
	exitInterrupted = 130
)

// app is one invocation: its streams, its environment and its global flags.
type app struct {
	in     *os.File
	out    *os.File
	err    *os.File
	getenv func(string) string

	connect connectFlags
	format  string
	columns []string
	quiet   bool
	debug   bool
	key     string // --idempotency-key
	dryRun  bool

	connection *client.Client
}

// usageError is a mistake on the command line.
type usageError struct {
	command string // "grove instance show"
	message string
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%s\nSee '%s --help'.", e.message, e.command)
}

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), message: fmt.Sprintf(format, args...)}
}

// run executes one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := a.showPlans(root.ExecuteContext(ctx))
	var interrupted *client.InterruptedError
	switch {
	case errors.As(err, &interrupted):
		fmt.Fprintf(a.err, "grove: %v; 'grove operation list' shows whether it was accepted\n", err)
	case err != nil && !errors.Is(err, context.Canceled):
		fmt.Fprintln(a.err, "grove: "+a.explain(err))
	}
	return exitCode(err)
}

// showPlans shows what the changes of a dry run would do, and gives the failures that are left.
func (a *app) showPlans(err error) error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var left []error
		for _, one := range several.Unwrap() {
			left = append(left, a.showPlans(one))
		}
		return errors.Join(left...)
	}
	var planned *client.Planned
	if !errors.As(err, &planned) {
		return err
	}
	return a.writer().Record(planRecord(planned.DryRun))
}

func planRecord(p wire.DryRun) output.Record {
	var r output.Record
	r.Add("operation", p.Operation)
	r.Add("resources", p.Resources)
	r.Add("effects", p.Effects)
	r.Add("steps", p.Steps)
	if p.OnFailure != "" {
		r.Add("on_failure", p.OnFailure)
	}
	if m := p.Moves; m != nil {
		r.Add("bytes", m.Bytes)
		r.Add("duration_seconds", m.Duration)
		needs := []string{}
		for _, id := range slices.Sorted(maps.Keys(m.FreeMemory)) {
			needs = append(needs, fmt.Sprintf("%s: %d bytes", id, m.FreeMemory[id]))
		}
		r.Add("free_memory", needs)
		moves := []string{}
		for _, move := range m.Moves {
			moves = append(moves, fmt.Sprintf("%s from %s to %s (%d bytes)", move.What, move.From, move.To, move.Bytes))
		}
		r.Add("moves", moves)
		r.Add("warnings", append([]string{}, m.Warnings...))
	}
	return r
}

func exitCode(err error) int {
	var wrong *usageError
	var late *timedOutError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &late):
		return exitTimedOut
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	default:
		return exitFailed
	}
}

// explain adds to an error what to do about it.
func (a *app) explain(err error) string {
	var gone *client.UnreachableError
	if errors.As(err, &gone) {
		return err.Error() + "\nIs it running? 'groved dev' starts Grove on this machine. Another one is chosen with --endpoint, GROVE_ENDPOINT or OS_CLOUD."
	}
	var refused *client.Error
	if errors.As(err, &refused) && len(refused.Operations) > 0 {
		return err.Error() + "\nIts steps: grove operation show " + refused.Operations[0]
	}
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
		return err.Error() + "\nThe server wants a token: OS_TOKEN=$(openstack token issue -f value -c id)"
	}
	return err.Error()
}

func (a *app) root() *cobra.Command {
	root := a.group("grove", "Databases as a service",
		a.instanceCommand(), a.clusterCommand(), a.rootCommand(), a.userCommand(), a.datastoreCommand(), a.flavorCommand(), a.configurationCommand(),
		a.quotaCommand(), a.limitsCommand(), a.caCommand(), a.operationCommand(), a.agentCommand(), a.janitorCommand(), a.eventCommand(), a.versionCommand(),
	)
	root.Long = `grove creates and looks after databases: instances of a datastore, with a flavor and a volume.

Without any setting it speaks to 'groved dev' on this machine (http://127.0.0.1:8779, project demo).
Another server is chosen by --endpoint or GROVE_ENDPOINT, by a cloud of clouds.yaml (--os-cloud or OS_CLOUD),
or by OS_ENDPOINT with OS_PROJECT_ID and OS_TOKEN.

Wherever an id is taken, a name will do. Results go to standard output, progress and remarks to standard error.

Exit codes: 0 done, 1 failed, 2 --wait timed out, 64 wrong usage, 130 interrupted.`
	root.Example = `  grove instance create cache1 --flavor 1 --size 1 --datastore redis --wait
  grove instance list -f json
  grove instance show cache1 -f value -c uri`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%v", err) })
	root.PersistentPreRunE = a.checkFlags
	root.SetGlobalNormalizationFunc(alias)
	a.globalFlags(root.PersistentFlags())
	_ = root.RegisterFlagCompletionFunc("format", fixed(output.Formats()...))
	_ = root.RegisterFlagCompletionFunc("column", cobra.NoFileCompletions)
	return root
}

func (a *app) globalFlags(f *pflag.FlagSet) {
	a.connect.register(f)
	f.StringVarP(&a.format, "format", "f", "table", "output `format`: "+strings.Join(output.Formats(), ", "))
	f.StringArrayVarP(&a.columns, "column", "c", nil, "show only this `column`, in the order given (repeat for more)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no remarks")
	f.BoolVar(&a.debug, "debug", false, "show every request on standard error")
	f.SortFlags = false
}

func (a *app) checkFlags(cmd *cobra.Command, _ []string) error {
	if !slices.Contains(output.Formats(), a.format) {
		return usage(cmd, "there is no format %q; there are: %s", a.format, strings.Join(output.Formats(), ", "))
	}
	if err := cmd.ValidateFlagGroups(); err != nil {
		return usage(cmd, "%v", err)
	}
	return nil
}

// group is a command that only holds others. Called alone it shows its help; an unknown verb is a usage error.
func (a *app) group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		message := fmt.Sprintf("%q is not a command of '%s'", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			message += "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usage(cmd, "%s", message)
	}
	cmd.AddCommand(subcommands...)
	return cmd
}

// arguments checks the number of arguments against the names of those that are needed; a last name in brackets may be
// left out, one that ends in "..." may be repeated.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		least, most := len(names), len(names)
		for _, name := range names {
			if strings.HasPrefix(name, "[") {
				least--
			}
			if strings.HasSuffix(strings.TrimRight(name, "]"), "...") {
				most = len(args) + 1
			}
		}
		if len(args) < least {
			return usage(cmd, "%s is missing: %s", names[len(args)], cmd.UseLine())
		}
		if len(args) > most {
			return usage(cmd, "%q is one argument too many: %s", args[most], cmd.UseLine())
		}
		return nil
	}
}

// client connects, at the first use.
func (a *app) client() (*client.Client, error) {
	if a.connection != nil {
		return a.connection, nil
	}
	target, err := a.connect.resolve(a.getenv)
	if err != nil {
		return nil, err
	}
	c := client.Config{
		Endpoint: target.endpoint, Token: target.token, UserAgent: "grove/" + version(), IdempotencyKey: a.key, DryRun: a.dryRun,
	}
	if c.TLS, err = tlsConfig(target); err != nil {
		return nil, err
	}
	if a.debug {
		c.Trace = func(format string, args ...any) { fmt.Fprintf(a.err, "debug: "+format+"\n", args...) }
	}
	a.connection, err = client.New(c)
	return a.connection, err
}

func tlsConfig(t target) (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: t.insecure}
	if t.caCert == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.caCert)
	if err != nil {
		return nil, fmt.Errorf("read the CA certificates: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", t.caCert)
	}
	return c, nil
}

// writer is where results go.
func (a *app) writer() output.Writer {
	w := output.Writer{W: a.out, Format: a.format, Columns: a.columns}
	if width, _, err := term.GetSize(int(a.out.Fd())); err == nil {
		w.Width = width
	}
	return w
}

// remark tells something beside the result.
func (a *app) remark(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// warn passes on what the server remarked.
func (a *app) warn(r *client.Reply) {
	for _, text := range r.Warnings {
		a.remark("warning: %s", text)
	}
}

// keyFlag lets the user choose the idempotency key of a command that POSTs.
func (a *app) keyFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.key, "idempotency-key", "", "a `key` that makes this request safe to repeat by hand (default: a new one)")
}

// version is that of the module or the commit that this binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: arguments(),
		RunE: func(*cobra.Command, []string) error {
			var r output.Record
			r.Add("name", "grove")
			r.Add("version", version())
			if info, ok := debug.ReadBuildInfo(); ok {
				r.Add("go", info.GoVersion)
			}
			return a.writer().Record(r)
		},
	}
}
