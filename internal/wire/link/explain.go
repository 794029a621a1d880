package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// explain classes what the network and package tls return, in words for people.
func explain(err error) (fault.Kind, error) {
	var (
		known  *fault.Error
		header tls.RecordHeaderError
		remote *net.OpError
	)
	switch {
	case errors.As(err, &known):
		return fault.KindOf(err), err
	case err == io.EOF:
		return fault.Unavailable, fmt.Errorf("the other end has closed it")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.Unavailable, fmt.Errorf("it was cut")
	case errors.Is(err, context.Canceled):
		return fault.Canceled, err
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fault.Timeout, fmt.Errorf("no answer in time")
	case errors.As(err, &header):
		return fault.Invalid, fault.WithCure(fmt.Errorf("the other end does not speak TLS"), checkTLS)
	case errors.As(err, &remote) && remote.Op == "remote error": // what package tls calls an alert
		return fault.Denied, fault.WithCure(fmt.Errorf("the other end refuses TLS with this node (%w)", remote.Err),
			"check that both nodes' certificates come from the same cluster")
	}
	return fault.Unavailable, err
}
