package daemon

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// settledAfter is how long after its start a process is taken to have all that it needs
// for now: with few volumes soon, with many later.
var settledAfter = []time.Duration{15 * time.Second, time.Minute, 5 * time.Minute}

// settle gives back, some time after the start, the memory that only the start needed.
func settle(ctx context.Context, log *slog.Logger) {
	began := time.Now()
	for _, after := range settledAfter {
		if pause(ctx, after-time.Since(began)); ctx.Err() != nil {
			return
		}
		debug.FreeOSMemory()
		if _, err := host.Unload(); err != nil {
			log.Debug("this process keeps its program mapped", obs.Err(err))
		}
	}
}

// controlGC is how much garbage, in percent of what is in use, the control process lets
// come together. It has little to do, and shares the machine with those who have much.
const controlGC = 50

// thrifty has the control process collect garbage early, unless somebody has decided
// otherwise.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(controlGC)
	}
}
