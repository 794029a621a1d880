package coordinator

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays the scenarios of testdata: files of commands, one a line, each
// followed by what the coordinator wanted done, as golden lines that begin with "  ".
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s\nwrite it anew with go test -run Transcripts -update", got, want)
			}
		})
	}
}

// script plays one transcript.
type script struct {
	t     *testing.T
	c     *Coordinator
	now   time.Duration
	rec   spec.Record
	sent  []Send
	names map[any]string
	out   bytes.Buffer
	replicas
}

// replicas are what the members of a script would answer.
type replicas struct {
	regions  map[int][]wire.RegionState
	sums     map[int]map[block.Index]block.Sum
	snaps    map[int][]block.Generation
	live     map[int]block.Generation
	promised map[int]block.Epoch
	state    map[int]wire.State
}

func play(t *testing.T, text string) string {
	s := &script{t: t, names: map[any]string{}, replicas: replicas{map[int][]wire.RegionState{}, map[int]map[block.Index]block.Sum{},
		map[int][]block.Generation{}, map[int]block.Generation{}, map[int]block.Epoch{}, map[int]wire.State{}}}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if line != "" && line[0] != '#' {
			s.command(strings.Fields(line))
		}
	}
	return s.out.String()
}

// command plays one line.
func (s *script) command(word []string) {
	arg := func(i int) int {
		if i >= len(word) {
			s.t.Fatalf("%q lacks a number", strings.Join(word, " "))
		}
		n, err := strconv.Atoi(word[i])
		if err != nil {
			s.t.Fatalf("%q: %v", strings.Join(word, " "), err)
		}
		return n
	}
	switch word[0] {
	case "volume": // volume STATE...: one for each member, "in" or the epoch in which it was left behind
		s.rec = spec.Record{Version: 1, Volume: block.VolumeID{1}, Size: 16 << 20, Epoch: 10}
		for i, w := range word[1:] {
			m := spec.Member{Replica: block.ReplicaID{byte(i + 1)}, Node: block.NodeID{byte(i + 1)}, State: spec.InSync}
			if w != "in" {
				m.State, m.Since = spec.Outdated, block.Epoch(arg(i+1))
			}
			s.rec.Members = append(s.rec.Members, m)
			s.promised[i] = 1
		}
	case "blank": // blank MEMBER: it has promised nothing yet
		s.promised[arg(1)] = 0
	case "snapshots": // snapshots G...: that the volume has
		for i := range word[1:] {
			s.rec.Snapshots = append(s.rec.Snapshots, block.Generation(arg(i+1)))
			s.rec.Generation = s.rec.Snapshots[i] + 1
		}
	case "has": // has MEMBER GENERATION...: the snapshots of a member
		for i := range word[2:] {
			s.snaps[arg(1)] = append(s.snaps[arg(1)], block.Generation(arg(i+2)))
			s.live[arg(1)] = block.Generation(arg(i+2)) + 1
		}
	case "dirty", "clean": // dirty MEMBER REGION EPOCH: a line of its region table
		s.regions[arg(1)] = append(s.regions[arg(1)], wire.RegionState{Region: block.Region(arg(2)), Epoch: block.Epoch(arg(3)), Dirty: word[0] == "dirty"})
	case "differs": // differs MEMBER BLOCK SUM
		if s.sums[arg(1)] == nil {
			s.sums[arg(1)] = map[block.Index]block.Sum{}
		}
		s.sums[arg(1)][block.Index(arg(2))] = block.Sum(arg(3))
	case "state": // state MEMBER STATE: what it says of itself
		s.state[arg(1)] = map[string]wire.State{"lost": wire.Lost, "forgot": wire.Forgot, "failed": wire.Failed, "serving": wire.Serving}[word[2]]
	case "attach":
		s.c = New(s.rec, Options{Node: block.NodeID{1}, Incarnation: 7})
		s.step(Tick{})
	case "write", "zero", "read":
		q := writeAt(block.Index(arg(2)), arg(3))
		q.Op = map[string]Op{"write": Write, "zero": Zero, "read": Read}[word[0]]
		s.names[q] = word[1]
		s.step(Submit{q})
	case "flush":
		q := &Request{Op: Flush}
		s.names[q] = word[1]
		s.step(Submit{q})
	case "snapshot", "hold", "release", "delete", "grow", "remove", "accept-loss":
		s.order(word[0], word, arg)
	case "link", "link-new": // link MEMBER...: new ones speak the newest version
		for i := range word[1:] {
			ev := Linked{Member: arg(i + 1), Version: wire.V1}
			if word[0] == "link-new" {
				ev.Version = wire.Highest
			}
			s.step(ev)
		}
	case "pause", "resume":
		s.c.SetResyncs(Resyncs{Pause: word[0] == "pause"})
		s.step(Tick{})
	case "cap": // cap BYTES: that resyncs move in a second
		s.c.SetResyncs(Resyncs{Bytes: float64(arg(1))})
		s.step(Tick{})
	case "unlink":
		s.step(Unlinked{Member: arg(1)})
	case "leave":
		s.step(Received{Member: arg(1), Msg: &wire.Leave{}})
	case "recorded":
		s.step(Recorded{OK: true, Record: s.rec})
	case "taken": // by another owner
		s.rec.Version, s.rec.Epoch, s.rec.Owner, s.rec.Incarnation = s.rec.Version+1, s.rec.Epoch+1, block.NodeID{9}, 99
		s.step(Recorded{Record: s.rec})
	case "unknown":
		s.step(Recorded{Err: fault.Errorf("record", fault.Unavailable, "no answer")})
	case "answer": // answer MEMBER...: all that they were asked
		for i := range word[1:] {
			s.answer(arg(i+1), "")
		}
	case "answer-only": // answer-only MEMBER KIND
		s.answer(arg(1), word[2])
	case "fail": // fail MEMBER KIND FAULT
		s.fail(arg(1), word[2], word[3])
	case "pass":
		d, err := time.ParseDuration(word[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now += d
		s.step(Tick{})
	case "detach":
		s.step(Detach{})
	case "health":
		for _, x := range s.c.Health(s.now) {
			fmt.Fprintf(&s.out, "  %v %d: %s; %s\n", x.Kind, x.Replica[0], x.Cause, x.Cure)
		}
	default:
		s.t.Fatalf("unknown command %q", word[0])
	}
}

func (s *script) order(what string, word []string, arg func(int) int) {
	ch := &Change{}
	s.names[ch] = word[1]
	switch what {
	case "snapshot":
		ch.Op, ch.Held = Snapshot, len(word) > 2
	case "hold":
		ch.Op = Hold
	case "release":
		ch.Op = Release
	case "delete":
		ch.Op, ch.Generation = DeleteSnapshot, block.Generation(arg(2))
	case "grow":
		ch.Op, ch.Size = Grow, int64(arg(2))<<20
	case "remove":
		ch.Op, ch.Remove = Reconfigure, []block.ReplicaID{{byte(arg(2))}}
	case "accept-loss":
		ch.Op, ch.Replica = AcceptLoss, block.ReplicaID{byte(arg(2))}
	}
	s.step(Order{ch})
}

// step plays an event and prints what follows.
func (s *script) step(ev Event) {
	fx := s.c.Step(s.now, ev)
	for _, m := range fx.Unlink {
		fmt.Fprintf(&s.out, "  unlink %d\n", m)
	}
	unlink := append([]int(nil), fx.Unlink...)
	for _, x := range fx.Send {
		fmt.Fprintf(&s.out, "  to %d: %s\n", x.Member, describe(x.Msg))
	}
	s.sent = append(s.sent, fx.Send...)
	for _, m := range fx.Link {
		fmt.Fprintf(&s.out, "  link %d\n", m)
	}
	if p := fx.Propose; p != nil {
		s.rec = p.Clone()
		fmt.Fprintf(&s.out, "  propose epoch %d, owner %d, members", p.Epoch, p.Owner[0])
		for _, m := range p.Members {
			fmt.Fprintf(&s.out, " %d:%v", m.Replica[0], m.State)
			if m.State == spec.Outdated {
				fmt.Fprintf(&s.out, "@%d", m.Since)
			}
		}
		if p.Generation != 0 {
			fmt.Fprintf(&s.out, ", snapshots %v, next %d", p.Snapshots, p.Generation)
		}
		if p.Size != 16<<20 {
			fmt.Fprintf(&s.out, ", %d MiB", p.Size>>20)
		}
		fmt.Fprintln(&s.out)
	}
	for _, q := range fx.Complete {
		fmt.Fprintf(&s.out, "  complete %s%s\n", s.names[q], because(q.Err))
	}
	for _, ch := range fx.Changed {
		fmt.Fprintf(&s.out, "  changed %s%s\n", s.names[ch], because(ch.Err))
	}
	if err := s.c.Stopped(); err != nil && len(fx.Complete)+len(fx.Changed) >= 0 {
		fmt.Fprintf(&s.out, "  stopped%s\n", because(err))
	}
	for _, m := range unlink {
		s.step(Unlinked{Member: m})
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + fault.KindOf(err).String()
}

func describe(msg wire.Message) string {
	switch m := msg.(type) {
	case *wire.Promise:
		return fmt.Sprintf("Promise %d", m.Epoch)
	case *wire.Write:
		return fmt.Sprintf("Write %v epoch %d", m.Extent, m.Epoch)
	case *wire.Zero:
		return fmt.Sprintf("Zero %v epoch %d", m.Extent, m.Epoch)
	case *wire.Read:
		return fmt.Sprintf("Read %v generation %d", m.Extent, m.Generation)
	case *wire.Verify:
		return fmt.Sprintf("Verify %v generation %d", m.Extent, m.Generation)
	case *wire.ReadBlocks:
		return fmt.Sprintf("ReadBlocks%s generation %d", runs(m.Blocks), m.Generation)
	case *wire.WriteBlocks:
		return fmt.Sprintf("WriteBlocks%s epoch %d", runs(m.Blocks), m.Epoch)
	case *wire.Snapshot:
		return fmt.Sprintf("Snapshot %d", m.Generation)
	case *wire.Seal:
		return fmt.Sprintf("%s %d", []string{"", "Prepare", "Seal", "Confirm"}[m.Step], m.Generation)
	case *wire.Generations:
		return fmt.Sprintf("Generations %v", m.List)
	case *wire.Grow:
		return fmt.Sprintf("Grow %d MiB", m.Size>>20)
	case *wire.Flush:
		if m.Whole {
			return "Flush whole"
		}
	case *wire.Changed:
		return fmt.Sprintf("Changed %d to %d", m.Since, m.Generation)
	}
	return msg.Kind().String()
}

func runs(b wire.Blocks) (s string) {
	for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
		s += fmt.Sprintf(" %v", e)
	}
	return s
}

// answer has member m answer, as a healthy replica would, what it was asked so far: all
// of it, or all of one kind. What it is asked because of its answers waits.
func (s *script) answer(m int, kind string) {
	sent := s.sent
	s.sent = nil
	for _, x := range sent {
		if x.Member != m || kind != "" && x.Msg.Kind().String() != kind {
			s.sent = append(s.sent, x)
			continue
		}
		s.step(Received{Member: m, ID: x.ID, Msg: s.reply(m, x.Msg)})
	}
}

func (s *script) fail(m int, kind, what string) {
	sent := s.sent
	s.sent = nil
	for _, x := range sent {
		if x.Member != m || x.Msg.Kind().String() != kind {
			s.sent = append(s.sent, x)
			continue
		}
		f := &wire.Fail{Status: fault.Media, Text: "as the script says"}
		switch what {
		case "fenced":
			f.Status, f.Epoch = fault.Fenced, 99
		case "nospace":
			f.Status = fault.NoSpace
		case "corrupt":
			f.Status = fault.Corrupt
		case "precondition":
			f.Status = fault.Precondition
		case "busy":
			f.Status, f.Wait = fault.Busy, time.Second
		case "unsupported":
			f.Status = fault.Unsupported
		}
		s.step(Received{Member: m, ID: x.ID, Msg: f})
	}
}

func (s *script) reply(m int, msg wire.Message) wire.Message {
	switch a := msg.(type) {
	case *wire.Open:
		return &wire.Opened{Size: s.rec.Size, Generation: max(s.live[m], 1), Promised: s.promised[m], Incarnation: 1, Boot: 1, State: max(s.state[m], wire.Serving), Snapshots: s.snaps[m]}
	case *wire.Promise:
		s.promised[m] = a.Epoch
		return &wire.Promised{Epoch: a.Epoch, Generation: max(s.live[m], 1), Lease: a.Lease}
	case *wire.Snapshot:
		s.snaps[m], s.live[m] = append(s.snaps[m], a.Generation), a.Generation+1
	case *wire.Regions:
		return &wire.RegionList{Last: true, List: s.regions[m]}
	case *wire.Verify:
		v := &wire.Verified{Sums: make([]block.Sum, a.Extent.Count)}
		for i := range v.Sums {
			v.Sums[i] = block.ZeroSum
			if sum, ok := s.sums[m][a.Extent.Start+block.Index(i)]; ok {
				v.Sums[i] = sum
			}
		}
		return v
	}
	return healthy(msg)
}
