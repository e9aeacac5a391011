package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "Write the certificate that clients of databases with TLS trust, in PEM", Args: arguments(),
		Example: "  grove ca > grove-ca.pem\n  redis-cli --tls --cacert grove-ca.pem -h ADDRESS -p 6380",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		ca, err := c.CA(cmd.Context())
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(a.out, ca.Certificate)
		return err
	}
	return cmd
}
