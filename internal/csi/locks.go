package csi

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
)

// locks lets one call at a time work on a volume.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free again
}

// lock waits until the volume is the caller's, which calls unlock. A caller that gives up
// before gets Aborted, as the specification wants it for a volume that is being worked on.
func (l *locks) lock(ctx context.Context, volume string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy := l.held[volume]
		if busy == nil {
			mine := make(chan struct{})
			l.held[volume] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, volume)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, refuse(codes.Aborted, "another call is at work on volume %s", volume)
		}
	}
}
