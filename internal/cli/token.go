package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func newTokenCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "token",
		Aliases: []string{"tokens"},
		Short:   "Let machines join the cluster, and people and programs use its API",
		Long: `A join token lets a machine become a node of the cluster. An API token lets a
person or a program call the API, in a role: a viewer looks, a user works with
volumes, attachments and snapshots, an admin does everything.`,
	})
	cmd.AddCommand(newTokenCreate(r), newTokenList(r), newTokenRevoke(r))
	return cmd
}

func tokenColumns() []column[*v1.Token] {
	return []column[*v1.Token]{
		{head: "ID", cell: func(t *v1.Token) string { return t.Id }},
		{head: "KIND", cell: func(t *v1.Token) string { return enumText(t.Kind.String(), "TOKEN_KIND_") }},
		{head: "ROLE", cell: func(t *v1.Token) string { return enumText(t.Role.String(), "ROLE_") }},
		{head: "SUBJECT", cell: func(t *v1.Token) string { return t.Subject }},
		{head: "EXPIRES", cell: func(t *v1.Token) string {
			if t.Expires == nil {
				return "never"
			}
			return timeText(t.Expires)
		}},
		{head: "REVOKED", cell: func(t *v1.Token) string { return yesNo(t.Revoked) }},
		{head: "CREATED", wide: true, cell: func(t *v1.Token) string { return timeText(t.Created) }},
	}
}

func newTokenCreate(r *remote) *cobra.Command {
	var kind, role, subject string
	var lifetime time.Duration
	var uses int32
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token, and print it",
		Long: `Make a token and print it: it is shown this once. Without flags it is one with
which machines can join for a day. With --role it is one for the API.`,
		Example: `  holdfast token create
  holdfast token create --uses 1 --lifetime 15m
  holdfast token create --role user --subject build-server --lifetime 720h`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN, Subject: subject, UsesMax: uses}
			if role != "" || kind == "api" {
				q.Kind = v1.TokenKind_TOKEN_KIND_API
				value, known := map[string]v1.Role{"viewer": v1.Role_ROLE_VIEWER, "user": v1.Role_ROLE_USER, "admin": v1.Role_ROLE_ADMIN}[role]
				if !known {
					return fmt.Errorf("--role %q is none: use viewer, user or admin", role)
				}
				q.Role = value
			} else if kind != "join" {
				return fmt.Errorf("--kind %q is none: use join or api", kind)
			}
			if cmd.Flags().Changed("lifetime") {
				q.Lifetime = durationpb.New(lifetime)
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Cluster.CreateToken(ctx, q)
				if err != nil {
					return err
				}
				if f := r.out.format.String(); f == "json" || f == "yaml" {
					return r.out.raw(out)
				}
				fmt.Fprintln(r.out.w, out.Secret)
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "kind", "join", "what it is for: `join|api`")
	f.StringVar(&role, "role", "", "of an API token: `viewer|user|admin`")
	f.StringVar(&subject, "subject", "", "`who` gets it, for the logs; an API token needs it")
	f.DurationVar(&lifetime, "lifetime", 0, "how long it is good for: a day for joining, for ever for the API")
	cmd.Flags().Int32Var(&uses, "uses", 0, "how many machines may join with it (default: any number)")
	return cmd
}

func newTokenList(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List tokens, without their secrets",
		Long:    "List the tokens that were made, without their secrets.",
		Example: "  holdfast token list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := collect(func(token string) ([]*v1.Token, string, error) {
					out, err := c.Cluster.ListTokens(ctx, &v1.ListTokensRequest{PageToken: token})
					return out.GetTokens(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, all, tokenColumns())
			})
		},
	}
}

func newTokenRevoke(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Make a token worthless, at once",
		Long:    "Make a token worthless, at once. Nodes that joined with it stay.",
		Example: "  holdfast token revoke k3j5h2",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				t, err := c.Cluster.RevokeToken(ctx, &v1.RevokeTokenRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return printOne(r.out, t, tokenColumns(), nil)
			})
		},
	}
}
