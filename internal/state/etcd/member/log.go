package member

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo returns a logger of etcd's kind that writes to log. What etcd thinks worth a warning
// is told who debugs; when it is quiet, because the server is being stopped, nothing is.
func zapTo(log *slog.Logger, quiet *atomic.Bool) *zap.Logger {
	if log == nil {
		return zap.NewNop()
	}
	return zap.New(&core{log: log.With("part", "etcd"), quiet: quiet})
}

// core hands on etcd's log lines.
type core struct {
	log    *slog.Logger
	quiet  *atomic.Bool
	fields []zapcore.Field
}

// Enabled reports whether lines of the level are written.
func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel && !c.quiet.Load() }

// With returns a core whose lines have the fields too.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log, quiet: c.quiet, fields: append(append([]zapcore.Field{}, c.fields...), fields...)}
}

// Check says that a line is to be written here.
func (c *core) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write writes a line.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(append([]zapcore.Field{}, c.fields...), fields...) {
		f.AddTo(m)
	}
	var attrs []slog.Attr
	for k, v := range m.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelDebug
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}

// Sync has nothing to do.
func (c *core) Sync() error { return nil }
