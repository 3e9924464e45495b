package main

import (
	"github.com/spf13/cobra"

	"container-registry-proxy/internal/app"
)

// command is the tree of subcommands.
func command(p process) *cobra.Command {
	root := &cobra.Command{
		Use:           "container-registry-proxy",
		Short:         "A caching proxy for the container images of every registry",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          oneOf,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(p.args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(wantFlags)
	root.AddCommand(serveCommand(p), demoCommand(p), doctorCommand(p), setupCommand(p), warmCommand(p), exportCommand(p), importCommand(p), healthcheckCommand(p), versionCommand())
	for _, c := range root.Commands() {
		if c.Args == nil {
			c.Args = noArguments
		}
	}
	strict(root)
	return root
}

func serveCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy",
		Long: `Run the proxy until SIGINT or SIGTERM; what runs then is finished first. A second signal ends it at once.
Settings are environment variables, or the YAML file that CONFIG_FILE names: docs/configuration.md lists them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return app.Run(cmd.Context(), p.environ, p.stdout, p.stderr)
		},
	}
}
