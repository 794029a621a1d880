package host

import "sync"

// workers make a disk's blocking calls. The loop's goroutine owns them; they start
// when there is work for them, up to the limit, and live until stop.
type workers struct {
	work    chan *slot // has room for every slot of the disk
	limit   int
	running int
	busy    int // slots given and not yet back
	ended   sync.WaitGroup
}

// give hands s to a worker, which puts it into the loop's inbox when it is done.
func (w *workers) give(s *slot) {
	if w.busy++; w.busy > w.running && w.running < w.limit {
		w.running++
		w.ended.Go(w.run)
	}
	w.work <- s
}

func (w *workers) run() {
	for s := range w.work {
		s.err = s.call()
		s.dir.loop.inbox.finish(s)
	}
}

// wait does the operation in s, which may take for ever, beside the workers.
func (w *workers) wait(s *slot) {
	w.ended.Go(func() {
		s.err = s.call()
		s.dir.loop.inbox.finish(s)
	})
}

// stop ends the workers; none is busy.
func (w *workers) stop() {
	close(w.work)
	w.ended.Wait()
}
