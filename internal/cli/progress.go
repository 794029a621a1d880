package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// progress tells a person at a terminal how far a long command is, on one line that it
// writes over and removes in the end. Elsewhere it says nothing.
type progress struct {
	w     io.Writer // nil says nothing
	done  string    // what happens to the bytes, as in "read"
	total int64     // bytes; not positive when that is not known
	now   func() time.Time
	began time.Time
	next  time.Time // not before this
	width int       // of the line that stands there
}

// progressEvery is how often the line changes.
const progressEvery = 200 * time.Millisecond

func newProgress(cmd *cobra.Command, done string, total int64) *progress {
	p := &progress{done: done, total: total, now: time.Now}
	if isTerminal(cmd.ErrOrStderr()) {
		p.w = cmd.ErrOrStderr()
	}
	p.began = p.now()
	p.next = p.began.Add(2 * progressEvery) // a short command shows none
	return p
}

// show says that so many bytes are done.
func (p *progress) show(bytes int64) {
	if p.w == nil {
		return
	}
	now := p.now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(progressEvery)
	text := bytesText(bytes)
	if p.total > 0 {
		text += fmt.Sprintf(" of %s (%d %%)", bytesText(p.total), min(100, bytes*100/p.total))
	}
	text += fmt.Sprintf(" %s, %s/s", p.done, bytesText(int64(float64(bytes)/now.Sub(p.began).Seconds())))
	p.say(text)
}

// say writes words on the line.
func (p *progress) say(text string) {
	if p.w == nil {
		return
	}
	fmt.Fprintf(p.w, "\r%-*s", p.width, text)
	p.width = len(text)
}

// end removes the line.
func (p *progress) end() {
	if p.w != nil && p.width > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.width, "")
		p.width = 0
	}
}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
