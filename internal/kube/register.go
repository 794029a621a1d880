package kube

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/kube/registration"
)

// Where a kubelet looks for plugins, below its root directory.
const (
	DefaultKubelet = "/var/lib/kubelet"
	registryDir    = "plugins_registry"
)

// Registrar tells a kubelet where the driver is.
type Registrar struct {
	Kubelet string // its root directory
	Socket  string // of the driver, as the kubelet sees it
	Log     *slog.Logger
}

// Socket returns where the driver's socket is to be for a kubelet to reach it.
func Socket(kubelet string) string {
	return filepath.Join(kubelet, "plugins", csi.DriverName, "csi.sock")
}

// Serve answers the kubelet, which finds the socket by itself, until ctx ends.
func (r *Registrar) Serve(ctx context.Context) error {
	listener, err := csi.Listen(filepath.Join(r.Kubelet, registryDir, csi.DriverName+"-reg.sock"))
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	registration.Register(g, r)
	return csi.Run(ctx, g, listener, time.Second)
}

// GetInfo says who the driver is.
func (r *Registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: "CSIPlugin", Name: csi.DriverName, Endpoint: r.Socket, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus logs whether the kubelet took it.
func (r *Registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.PluginRegistered {
		r.Log.Info("the kubelet knows the driver", "driver", csi.DriverName)
	} else {
		r.Log.Error("the kubelet does not accept the driver", "driver", csi.DriverName, "why", s.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
