package host_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/hosttest"
)

// engines are those that this machine has.
var engines = []host.Engine{host.EngineRing, host.EnginePool}

func TestDisk(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine.String(), func(t *testing.T) {
			hosttest.TestDisk(t, func(t *testing.T) host.Disk {
				d, err := host.Open(t.TempDir(), host.Options{Engine: engine})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(d.Close)
				return d
			})
		})
	}
}
