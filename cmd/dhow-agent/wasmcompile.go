package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/wasm/compiler"
	"github.com/dhowfleet/dhow/wasm/confine"
)

const wasmCompile = "wasm-compile"

// newWasmCompileCommand is the child that compiles a WASM module; it reads its request on standard input.
func newWasmCompileCommand() *cobra.Command {
	return &cobra.Command{
		Use:    wasmCompile,
		Short:  "Compile a WASM module (started by the agent itself)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if code := compiler.Main(cmd.InOrStdin(), cmd.OutOrStdout()); code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
}

// wasmCompiler starts this program again for each module that is to be compiled.
func wasmCompiler(log *slog.Logger) *compiler.Child {
	c := compiler.New(compiler.Limits{}, confine.Self(wasmCompile)...)
	c.Logger = log
	return c
}
