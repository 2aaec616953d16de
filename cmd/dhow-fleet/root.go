package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dhowfleet/dhow/fleet/config"
)

// usageError is a call that cannot be meant.
type usageError struct{ error }

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "dhow-fleet",
		Short: "The fleet manager of Dhow: enrols machines, publishes models and rolls them out",
		Long: `The fleet manager of Dhow: enrols machines, publishes models and rolls them out.

Set up a data folder with "dhow-fleet init", then serve from it with "dhow-fleet run". Settings are read from DIR/config.yaml
(or --config), then from the variables DHOW_FLEET_..., then from flags.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newInit(), newRun(), newToken(), newVersion())
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}

// textOrJSON checks the value of --output.
func textOrJSON(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("--output: %q is not text or json", output)}
	}
	return nil
}

// settings are the flags that make up a configuration.
type settings struct {
	data, file string
	values     []*value
}

// value is a flag's; that of a list gathers what is given in several flags.
type value struct {
	text       string
	list, used bool
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return "value" }

func (v *value) Set(s string) error {
	if v.list && v.used {
		s = v.text + "," + s
	}
	v.text, v.used = s, true
	return nil
}

// bind adds a flag for every setting.
func (s *settings) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.data, "data", "", "folder that holds everything the manager keeps (required)")
	cmd.Flags().StringVar(&s.file, "config", "", "configuration file (default: config.yaml in the data folder)")
	usual := config.Default()
	for _, setting := range usual.Settings() {
		v := &value{text: setting.Get(), list: setting.List}
		s.values = append(s.values, v)
		flag := cmd.Flags().VarPF(v, setting.Flag, "", setting.Usage)
		if setting.Get() == "false" {
			flag.NoOptDefVal = "true" // --disable-quic alone means yes
		}
	}
	// One name given as --hostname reads better.
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "hostname" {
			name = "hostnames"
		}
		return pflag.NormalizedName(name)
	})
}

// read puts the configuration together: defaults, file, environment, flags.
func (s *settings) read(cmd *cobra.Command) (config.Config, error) {
	c := config.Default()
	c.Data = s.data
	if c.Data == "" {
		c.Data = os.Getenv("DHOW_FLEET_DATA")
	}
	if c.Data == "" {
		return c, usageError{errors.New("no data folder is named: use --data DIR")}
	}
	file, asked := s.file, s.file != ""
	if !asked {
		file = c.File()
	}
	if err := c.ReadFile(file, asked); err != nil {
		return c, err
	}
	if err := c.ReadEnvironment(os.LookupEnv); err != nil {
		return c, err
	}
	for i, setting := range c.Settings() {
		if cmd.Flags().Changed(setting.Flag) {
			if err := setting.Set(s.values[i].text); err != nil {
				return c, usageError{errors.New("--" + setting.Flag + ": " + err.Error())}
			}
		}
	}
	return c, nil
}
