package daemon

import (
	"sync"

	"github.com/holdfast-io/holdfast/api/client"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// others reach the APIs of other nodes, with this node's certificate.
type others struct {
	wallet *trust.Wallet

	mu      sync.Mutex
	clients map[string]*client.Client // by address; there are as many as nodes
}

// Snapshots is server.Others.Snapshots.
func (o *others) Snapshots(address string) (holdfastv1connect.SnapshotServiceClient, error) {
	c, err := o.of(address)
	if err != nil {
		return nil, err
	}
	return c.Snapshots, nil
}

// Volumes is server.Others.Volumes.
func (o *others) Volumes(address string) (holdfastv1connect.VolumeServiceClient, error) {
	c, err := o.of(address)
	if err != nil {
		return nil, err
	}
	return c.Volumes, nil
}

func (o *others) of(address string) (*client.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.clients[address]
	if c == nil {
		var err error
		if c, err = client.Dial(client.Options{Address: address, TLS: o.wallet.Client()}); err != nil {
			return nil, err
		}
		if o.clients == nil {
			o.clients = map[string]*client.Client{}
		}
		o.clients[address] = c
	}
	return c, nil
}
