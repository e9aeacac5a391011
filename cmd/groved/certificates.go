package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

func certificatesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "certificates", Short: "Manage the certificates of the message broker, and the authority that signs those of databases"}
	cmd.AddCommand(initCertificatesCommand(), rotateCertificatesCommand(o), &cobra.Command{
		Use: "rotate-authority", Short: "Make the next of the three changes that replace the authority; works while Grove runs", Args: cobra.NoArgs,
		Long: "Make the next of the three changes by which one authority of databases follows another: it is published beside the one that signs;\nit signs; the old one is withdrawn. Each is refused while databases are not ready for it. The last two come by themselves, a\nmonth after the first and when no certificate of the old one is in use.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHouse(cmd.Context(), o, func(ctx context.Context, h *house) error {
				said, err := control.RotateAuthority(ctx, h.store, clock.Real{}, false)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
				return err
			})
		},
	})
	return cmd
}

// The files of the broker's certificates. Only brokerCA is no secret.
const (
	brokerCA        = "ca.pem"             // whom clients trust: rpc.ca_file
	brokerServer    = "server.pem"         // RabbitMQ's key and certificate, in one file so that both change at once
	brokerAuthority = "authority.pem"      // who signs, with its key
	brokerNext      = "authority-next.pem" // who will sign
	brokerOld       = "authority-old.pem"  // who signed before
)

// brokerLife is how long the broker's certificate is good for.
const brokerLife = 365 * 24 * time.Hour

func initCertificatesCommand() *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use: "init DIR --name NAME ...", Short: "Make an authority and a certificate for the message broker", Args: cobra.ExactArgs(1),
		Long: "Init makes, in DIR, an authority of the broker's own and the key and certificate of RabbitMQ, and says what belongs into\nrabbitmq.conf and into Grove's configuration. Files that are there are never overwritten. Names are the host names and IP\naddresses by which Grove and the guests reach the broker.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return initCertificates(args[0], names, (clock.Real{}).Now(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringArrayVar(&names, "name", nil, "host name or IP address of the broker; may be repeated")
	return cmd
}

// initCertificates makes what is missing in dir, unless something is there.
func initCertificates(dir string, names []string, now time.Time, w io.Writer) error {
	if len(names) == 0 {
		return errors.New("name the broker's host names and IP addresses with --name")
	}
	for _, name := range []string{brokerCA, brokerServer, brokerAuthority, brokerNext, brokerOld} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s has the file %s already: groved certificates rotate %s makes new certificates", dir, name, dir)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	a, err := secret.NewBrokerAuthority(now)
	if err != nil {
		return err
	}
	if err := issueServer(dir, a, names, now); err != nil {
		return err
	}
	if err := writeAuthority(dir, brokerAuthority, a); err != nil {
		return err
	}
	if err := writeTrusted(dir, a); err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `# rabbitmq.conf (user rabbitmq must own %[1]s and be able to read it)
listeners.tcp = none
listeners.ssl.default = 5671
ssl_options.certfile = %[1]s
ssl_options.keyfile = %[1]s
ssl_options.cacertfile = %[2]s
ssl_options.verify = verify_none
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
management.ssl.port = 15671
management.ssl.certfile = %[1]s
management.ssl.keyfile = %[1]s
management.ssl.cacertfile = %[2]s

# grove.yaml (user grove must be able to read %[2]s)
# rpc:
#   url: amqps://grove:${GROVE_RPC_PASSWORD}@%[3]s/
#   management_url: https://grove:${GROVE_RPC_PASSWORD}@%[3]s:15671
#   ca_file: %[2]s

# Keep %[4]s where the broker is not: whoever has it can pass for the broker.
`, filepath.Join(dir, brokerServer), filepath.Join(dir, brokerCA), names[0], filepath.Join(dir, brokerAuthority))
	return err
}

func rotateCertificatesCommand(o *options) *cobra.Command {
	var authority bool
	cmd := &cobra.Command{
		Use: "rotate DIR", Short: "Make a new certificate for the message broker; with --authority, the next of the three changes of who signs it", Args: cobra.ExactArgs(1),
		Long: "Rotate makes a new key and certificate for RabbitMQ, which reads the file anew within two minutes: nobody is cut off. With\n--authority it makes the next of the three changes by which one authority of the broker follows another: it is trusted beside the\none that signs; it signs; the old one is no longer trusted. The last two are refused while a guest agent does not know the broker\nby the next authority, which takes Grove's configuration (--config). What must be done before the next change is said each time.",
		RunE: func(cmd *cobra.Command, args []string) error {
			rotate := rotateServer
			if authority {
				if err := requireKnown(cmd.Context(), o, args[0]); err != nil {
					return err
				}
				rotate = rotateBrokerAuthority
			}
			said, err := rotate(args[0], (clock.Real{}).Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
			return err
		},
	}
	cmd.Flags().BoolVar(&authority, "authority", false, "change who signs, in three steps")
	return cmd
}

// requireKnown refuses the next change while somebody does not know the broker by the authority that signs after it. The first
// change leaves the one that signs.
func requireKnown(ctx context.Context, o *options, dir string) error {
	if !exists(filepath.Join(dir, brokerNext)) {
		return nil
	}
	next, err := readAuthority(dir, brokerNext)
	if err != nil {
		return err
	}
	a, err := guest.ParseAuthorities([]byte(next.Certificate()))
	if err != nil {
		return err
	}
	if o.configFile == "" {
		return errors.New("which guests know the broker by the next authority is in Grove's database: name Grove's configuration with --config")
	}
	return withHouse(ctx, o, func(ctx context.Context, h *house) error { return h.requireKnown(ctx, a.Names[0]) })
}

// requireKnown refuses unless this process and all agents know the broker by the authority of that name.
func (h *house) requireKnown(ctx context.Context, name string) error {
	trust := h.trust()
	if trust == nil {
		return errors.New("rpc.ca_file is not set: guests know the broker as their systems do, and nobody can tell whether that is by the next authority")
	}
	text, err := trust()
	if err != nil {
		return fmt.Errorf("read rpc.ca_file: %w", err)
	}
	if known, err := guest.ParseAuthorities(text); err != nil || !slices.Contains(known.Names, name) {
		return fmt.Errorf("the next authority is not in rpc.ca_file (%s): put the new ca.pem there, on each machine of Grove, and try again", h.config.RPC.CAFile)
	}
	guests, err := h.store.GuestsTrustingOthers(ctx, name)
	if err != nil {
		return err
	}
	return unknowing(guests, name)
}

// mostNamed is how many guests a refusal names.
const mostNamed = 10

// unknowing is why guests may not be cut off that do not know the broker by the authority of that name; nil: all do.
func unknowing(guests []store.TrustingGuest, name string) error {
	var without []string
	for _, g := range guests {
		if !slices.Contains(strings.Fields(g.BrokerTrust), name) {
			without = append(without, fmt.Sprintf("guest %s of instance %s", g.ID, g.InstanceID))
		}
	}
	n := len(without)
	if n == 0 {
		return nil
	}
	if n > mostNamed {
		without = append(without[:mostNamed], fmt.Sprintf("%d more", n-mostNamed))
	}
	return fmt.Errorf("%d guest agents have not confirmed that they know the broker by the next authority, and would be cut off: %s. Agents learn it within seconds "+
		"from taskmanagers whose rpc.ca_file has it; one that is away, when it is back. For one of an earlier release: grove agent upgrade; for one that does not come "+
		"back: grove instance rebuild, or delete the instance. Then try again", n, strings.Join(without, ", "))
}

// rotateServer makes a new certificate for the names of the present one.
func rotateServer(dir string, now time.Time) (said string, err error) {
	a, err := readAuthority(dir, brokerAuthority)
	if err != nil {
		return "", err
	}
	names, err := serverNames(dir)
	if err != nil {
		return "", err
	}
	if err := issueServer(dir, a, names, now); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is new, good until %s. RabbitMQ takes it for new connections within two minutes, at once after `rabbitmqctl eval 'ssl:clear_pem_cache().'`.",
		filepath.Join(dir, brokerServer), now.Add(brokerLife).Format(time.DateOnly)), nil
}

// rotateBrokerAuthority makes the next of three changes. Which one it is, the files tell; each may be made again when it was
// cut off.
func rotateBrokerAuthority(dir string, now time.Time) (said string, err error) {
	signs, err := readAuthority(dir, brokerAuthority)
	if err != nil {
		return "", err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	switch {
	case exists(path(brokerOld)):
		next, err := readAuthority(dir, brokerNext)
		if err == nil { // else this change was cut off
			issuer, err := serverIssuer(dir)
			if err != nil {
				return "", err
			}
			if issuer != next.ID() { // the change before was cut off
				return signWith(dir, next, now)
			}
		}
		if err := errors.Join(writeTrusted(dir, signs), removeIfThere(path(brokerNext)), removeIfThere(path(brokerOld))); err != nil {
			return "", err
		}
		return "The old authority is no longer trusted. Put ca.pem where Grove reads it.", nil
	case exists(path(brokerNext)):
		next, err := readAuthority(dir, brokerNext)
		if err != nil {
			return "", err
		}
		if err := errors.Join(writeAuthority(dir, brokerOld, signs), writeTrusted(dir, signs, next)); err != nil {
			return "", err
		}
		return signWith(dir, next, now)
	}
	next, err := secret.NewBrokerAuthority(now)
	if err != nil {
		return "", err
	}
	if err := errors.Join(writeAuthority(dir, brokerNext, next), writeTrusted(dir, signs, next)); err != nil {
		return "", err
	}
	return "The next authority is trusted in ca.pem beside the one that signs. Put ca.pem where Grove reads it. Agents are told by themselves; the next change is refused until all of them have confirmed it.", nil
}

// signWith lets the next authority sign.
func signWith(dir string, next *secret.Authority, now time.Time) (string, error) {
	if err := writeAuthority(dir, brokerAuthority, next); err != nil {
		return "", err
	}
	said, err := rotateServer(dir, now)
	return "The next authority signs now. " + said, err
}

// issueServer makes the broker's key and certificate, in the place of those that are there.
func issueServer(dir string, a *secret.Authority, names []string, now time.Time) error {
	pair, err := a.Issue(names, now, brokerLife)
	if err != nil {
		return err
	}
	return writeKept(filepath.Join(dir, brokerServer), pair, 0o600)
}

// writeKept replaces a file, which goes on belonging to whom it did: RabbitMQ has to read it.
func writeKept(path string, text []byte, mode os.FileMode) error {
	var owner *host.Owner
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			owner = &host.Owner{UID: int(st.Uid), GID: int(st.Gid)}
		}
	}
	return host.WriteFile(path, text, mode, owner)
}

// serverNames are the names in the broker's certificate.
func serverNames(dir string) ([]string, error) {
	c, err := serverCertificate(dir)
	if err != nil {
		return nil, err
	}
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names, nil
}

// serverIssuer is the id of the authority that signed the broker's certificate.
func serverIssuer(dir string) (string, error) {
	c, err := serverCertificate(dir)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(c.AuthorityKeyId), nil
}

func serverCertificate(dir string) (*x509.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(dir, brokerServer))
	if err != nil {
		return nil, fmt.Errorf("read the broker's certificate: %w; groved certificates init makes one", err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the broker's certificate: %w", err)
		}
		return c, nil
	}
	return nil, fmt.Errorf("%s has no certificate", filepath.Join(dir, brokerServer))
}

func readAuthority(dir, name string) (*secret.Authority, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w; groved certificates init makes one", err)
	}
	return secret.ParseAuthority(text)
}

func writeAuthority(dir, name string, a *secret.Authority) error {
	text, err := a.Bytes()
	if err != nil {
		return err
	}
	return host.WriteFile(filepath.Join(dir, name), text, 0o600, nil)
}

// writeTrusted writes whom clients trust.
func writeTrusted(dir string, trusted ...*secret.Authority) error {
	text := ""
	for _, a := range trusted {
		text += a.Certificate()
	}
	return writeKept(filepath.Join(dir, brokerCA), []byte(text), 0o644)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
