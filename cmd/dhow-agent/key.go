package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/access"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make keys for callers of this node, and list them",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyCreateCommand(), newKeyListCommand())
	return cmd
}

func newKeyCreateCommand() *cobra.Command {
	var k access.Key
	var groups []string
	var expires, file string
	cmd := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make a key and the document that lets it in",
		Long: `Make a key and the document that lets it in.

The key is shown once and kept nowhere: the document holds its hash alone. With --append the document goes into the
agent's file of keys, which a running agent reads again by itself, and the key is all that is printed. Without it the
document is printed, and the key goes to standard error, so that the one can be sent to a file and the other be seen.

Callers send the key as "Authorization: Bearer KEY".`,
		Example: `  dhow-agent key create --name till --models fashion --groups inference,metadata --append /etc/dhow/keys.yaml`,
		Args:    noArgs,
	}
	f := cmd.Flags()
	f.StringVar(&k.Name, "name", "", "of the caller, as it will stand in logs")
	f.StringSliceVar(&groups, "groups", []string{string(access.Inference), string(access.Metadata)}, "groups of endpoints that the key opens, or all")
	f.StringSliceVar(&k.Models, "models", nil, "names or patterns such as shop-* of the models it may use (default: every model)")
	f.IntVar(&k.Quota.RequestsPerMinute, "requests-per-minute", 0, "quota of requests (0: no bound)")
	f.IntVar(&k.Quota.Burst, "burst", 0, "requests at once after a pause (default: what ten seconds allow)")
	f.IntVar(&k.Quota.Concurrent, "concurrent", 0, "requests at the same time (0: no bound)")
	f.Uint64Var(&k.Priority, "priority", 0, "of its requests, 1 the most urgent (0: as the model says)")
	f.StringVar(&expires, "expires", "", "last day, such as 2027-01-31, or time that it holds (default: for ever)")
	f.StringVar(&file, "append", "", "file of keys that the document is added to; it is made when it is not there")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, g := range groups {
			k.Groups = append(k.Groups, access.Group(g))
		}
		if expires != "" {
			t, err := access.ParseExpiry(expires)
			if err != nil {
				return usageError{fmt.Errorf("--expires: %w", err)}
			}
			k.Expires = t
		}
		key := access.NewKey()
		k.Hash = access.HashOf(key)
		if err := k.Validate(); err != nil {
			return usageError{fmt.Errorf("cannot make such a key: %w", err)}
		}
		document, err := k.Document()
		if err != nil {
			return err
		}
		if file == "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", key)
			_, err = cmd.OutOrStdout().Write(document)
			return err
		}
		if err := appendKey(file, document); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
		return err
	}
	return cmd
}

// appendKey adds a document to a file of keys, if the file holds with it.
func appendKey(path string, document []byte) error {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the keys: %w", err)
	}
	if len(before) > 0 && before[len(before)-1] != '\n' {
		document = append([]byte{'\n'}, document...)
	}
	if _, err := access.Parse(path, append(before[:len(before):len(before)], document...)); err != nil {
		return fmt.Errorf("cannot add the key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("cannot add the key: %w", err)
	}
	// One write, so that an agent that reads meanwhile sees all of the document or, at worst, a file that does not hold
	// until its next look.
	_, err = f.Write(document)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot add the key: %w", err)
	}
	return nil
}

func newKeyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list FILE",
		Short: "List the keys of a file, which also says whether the file holds",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("dhow-agent key list takes the file of keys, such as /etc/dhow/keys.yaml")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := access.Open(args[0], access.Options{})
			if err != nil {
				return err
			}
			return printKeys(cmd.OutOrStdout(), p.Keys(), time.Now())
		},
	}
}

func printKeys(out io.Writer, keys []access.Key, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tGROUPS\tMODELS\tQUOTA\tPRIORITY\tEXPIRES")
	for _, k := range keys {
		var groups, quota []string
		for _, g := range k.Groups {
			groups = append(groups, string(g))
		}
		if n := k.Quota.RequestsPerMinute; n > 0 {
			quota = append(quota, fmt.Sprintf("%d/min", n))
		}
		if n := k.Quota.Concurrent; n > 0 {
			quota = append(quota, fmt.Sprintf("%d at once", n))
		}
		expires := "never"
		switch {
		case k.Expires.IsZero():
		case k.Expires.After(now):
			expires = k.Expires.UTC().Format(time.RFC3339)
		default:
			expires = "expired " + k.Expires.UTC().Format(time.RFC3339)
		}
		priority := "-"
		if k.Priority > 0 {
			priority = fmt.Sprint(k.Priority)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, strings.Join(groups, ","), or(strings.Join(k.Models, ","), "*"), or(strings.Join(quota, ", "), "-"), priority, expires)
	}
	return w.Flush()
}
