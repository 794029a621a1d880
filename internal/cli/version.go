package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what a build knows of itself.
type version struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"` // built from files that are not in the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print which build of holdfast this is",
		Long: `Print the version, the commit that it was built from, and the Go release and
platform that it was built with.`,
		Example: `  holdfast version
  holdfast version -o json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := thisVersion()
			return out.print(v, func(t *table) {
				t.field("version", v.Version)
				t.field("commit", v.Commit)
				if v.Modified {
					t.field("modified", "with changes that are not in the commit")
				}
				t.field("go", v.Go)
				t.field("platform", v.Platform)
			})
		},
	}
}

func thisVersion() version {
	v := version{Version: "unknown", Commit: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
