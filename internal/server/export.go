package server

import (
	"net"
	"strconv"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// frontendExport is the front end that makes no device.
const frontendExport = "export"

// socketPathMax is the kernel's limit for the path of a Unix socket.
const socketPathMax = 107

// exportWanted completes the spec of an attachment by the export that is asked for, if one is.
func exportWanted(r *v1.AttachRequest, want *v1.AttachmentSpec) error {
	if r.Export == nil && r.Frontend != frontendExport {
		return nil
	}
	x := &v1.Export{Socket: r.Export.GetSocket(), Listen: r.Export.GetListen()}
	switch {
	case r.Export != nil && r.Frontend != "" && r.Frontend != frontendExport:
		return invalid("export", "leave one of the two out", "front end %s makes a device, which is not exported", r.Frontend)
	case r.MountPath != "":
		return invalid("mount_path", "leave it out", "an export is no device that could be mounted")
	case x.Socket != "" && x.Listen != "":
		return invalid("export", "leave one of the two out", "a volume is exported at a socket or at an address")
	case x.Socket != "":
		if err := checkPath("export.socket", x.Socket); err != nil {
			return err
		}
		if len(x.Socket) > socketPathMax {
			return invalid("export.socket", "give a shorter path", "a socket's path has at most %d bytes", socketPathMax)
		}
	case x.Listen != "":
		if err := checkListen(x.Listen); err != nil {
			return err
		}
	}
	want.Frontend, want.Export = frontendExport, x
	return nil
}

// checkListen refuses what nobody can listen at.
func checkListen(at string) error {
	const cure = "give IP:port, or :port at the node's own address, such as :10809"
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return invalid("export.listen", cure, "%q is no address", at)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return invalid("export.listen", cure, "%q is no port", port)
	}
	if host != "" && net.ParseIP(host) == nil {
		return invalid("export.listen", cure, "%q is no IP address", host)
	}
	return nil
}
