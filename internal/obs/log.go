// Package obs makes logs that carry volume and epoch, so that what happened to one
// volume can be followed across nodes and owners with one search.
//
// A process makes one logger with [Options.Logger] and hands it down; whoever works
// on a volume narrows it with [ForVolume]. A line that names an error does so with
// [Err], which adds the error's kind. [Traces] makes traces of control operations, where a
// collector is named. Metrics are shown by those who have the figures.
package obs

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Format is how log lines look.
type Format uint8

// The formats.
const (
	Text Format = iota // key=value, for people
	JSON               // one object a line, for collectors
)

// MarshalText returns the format's name: text or json.
func (f Format) MarshalText() ([]byte, error) {
	if f == JSON {
		return []byte("json"), nil
	}
	return []byte("text"), nil
}

// UnmarshalText reads a format's name. An unknown one is fault.Invalid.
func (f *Format) UnmarshalText(b []byte) error {
	switch string(b) {
	case "text":
		*f = Text
	case "json":
		*f = JSON
	default:
		return fault.WithCure(fault.Errorf("obs.Format", fault.Invalid, "log format %q is unknown", b), "use text or json")
	}
	return nil
}

// Options say what is logged and how. The zero value logs Info and above as text.
// Both fields read and print themselves as text, so they can be flags as they are
// (flag.TextVar).
type Options struct {
	Level  slog.Level
	Format Format
}

// The environment variables that OptionsFromEnv reads.
const (
	EnvLevel  = "HOLDFAST_LOG_LEVEL"  // debug, info, warn, error
	EnvFormat = "HOLDFAST_LOG_FORMAT" // text, json
)

// OptionsFromEnv reads the options from the environment, by getenv (os.Getenv); what
// is unset or empty keeps its zero value. A value that can't be read is fault.Invalid.
func OptionsFromEnv(getenv func(string) string) (Options, error) {
	var o Options
	if v := getenv(EnvLevel); v != "" {
		if err := o.Level.UnmarshalText([]byte(v)); err != nil {
			return Options{}, fault.WithCure(fault.Errorf("obs.OptionsFromEnv", fault.Invalid, "%s: log level %q is unknown", EnvLevel, v),
				"use debug, info, warn or error")
		}
	}
	if v := getenv(EnvFormat); v != "" {
		if err := o.Format.UnmarshalText([]byte(v)); err != nil {
			return Options{}, fault.Wrap("obs.OptionsFromEnv", fmt.Errorf("%s: %w", EnvFormat, err))
		}
	}
	return o, nil
}

// Logger returns a logger that writes whole lines to w. It may be used from any
// goroutine.
func (o Options) Logger(w io.Writer) *slog.Logger {
	ho := &slog.HandlerOptions{Level: o.Level}
	if o.Format == JSON {
		return slog.New(slog.NewJSONHandler(w, ho))
	}
	return slog.New(slog.NewTextHandler(w, ho))
}

// ForVolume returns a logger whose every line names the volume and the epoch under
// which it is worked on. Make a new one from the same parent when the epoch changes.
func ForVolume(parent *slog.Logger, volume block.VolumeID, epoch block.Epoch) *slog.Logger {
	return parent.With(slog.String("volume", volume.String()), slog.Uint64("epoch", uint64(epoch)))
}

// Err names an error and its kind in a log line: error="..." kind="no space". For a
// nil error it adds nothing.
func Err(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.Attr{Value: slog.GroupValue(
		slog.String("error", err.Error()),
		slog.String("kind", fault.KindOf(err).String()),
	)}
}
