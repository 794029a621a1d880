package cli

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

func newStoreDelete(out *output) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete REPLICA",
		Short: "Destroy a replica and its snapshots",
		Long: `Destroy the replica REPLICA, all its generations included, after asking.
Clones of it live on. A replica that is not there is a success; a directory
that is not a replica is refused.`,
		Example: `  holdfast store delete /var/lib/holdfast/pools/try/demo
  holdfast store delete /var/lib/holdfast/pools/try/demo --yes`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := openPlace(cmd.Context(), args[0], works)
			if err != nil {
				return err
			}
			ask := func(what string) error { return confirm(cmd, what) }
			if yes {
				ask = func(string) error { return nil }
			}
			if err := first(p.delete(ask), p.close()); err != nil {
				return err
			}
			deleted := struct {
				Path    string `json:"path"`
				Deleted bool   `json:"deleted"`
			}{p.dir(), true}
			return out.print(deleted, func(t *table) { t.row("deleted " + p.dir()) })
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// delete removes the replica at p, if there is one and ask returns no error, and what an
// interrupted removal left.
func (p *place) delete(ask func(what string) error) error {
	is, err := p.look(p.name)
	if err == nil && is != aReplica && is != nothing {
		err = fault.Errorf("delete", fault.Invalid, "%s is not a replica: there is no replica.json in it", p.dir())
	}
	if err == nil {
		err = p.guardUnfinished()
	}
	if err == nil && is == aReplica {
		what := "the replica at " + p.dir()
		if m, err := p.manifest(); err == nil {
			what += fmt.Sprintf(", volume %s, %s, %d snapshots", m.Volume, bytesText(m.Size), len(m.Snapshots))
		} else if fault.Is(err, fault.Busy) {
			return err
		}
		err = ask(what)
	}
	if err != nil {
		return err
	}
	return await(p.disk, func(done func(error)) { store.Delete(p.disk, p.name, done) })
}

// confirm asks whether what is to be destroyed.
func confirm(cmd *cobra.Command, what string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "Destroy %s?\nType yes: ", what)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
	if strings.TrimSpace(answer) != "yes" {
		fmt.Fprintln(cmd.ErrOrStderr())
		return fault.WithCure(fault.Errorf("confirm", fault.Canceled, "nothing was destroyed"), "answer yes, or say --yes")
	}
	return nil
}
