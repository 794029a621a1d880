package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// postgres is a PostgreSQL whose files are in a directory of a volume.
type postgres struct {
	c    *cluster
	dir  string // where the volume is mounted
	port int
	user *syscall.Credential // as whom it runs: it refuses to as root
}

const postgresPrograms = "/usr/lib/postgresql/15/bin/"

var postgresPorts atomic.Int32

// newPostgres returns the one on a volume that is mounted at dir, which does not run yet.
func (c *cluster) newPostgres(dir string) *postgres {
	for _, path := range []string{c.dir, filepath.Dir(dir)} {
		must(c.t, os.Chmod(path, 0o711)) // its user must get there
	}
	who, err := user.Lookup("postgres")
	must(c.t, err)
	uid, err := strconv.ParseUint(who.Uid, 10, 32)
	must(c.t, err)
	gid, err := strconv.ParseUint(who.Gid, 10, 32)
	must(c.t, err)
	return &postgres{c: c, dir: dir, user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, port: 20000 + os.Getpid()%20000 + int(postgresPorts.Add(1))}
}

// run runs one of its programs.
func (p *postgres) run(name string, args ...string) (string, error) {
	raw, err := p.command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(raw)), err
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.c.t.Context(), postgresPrograms+name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "PGHOST="+p.dir+"/pg", "PGPORT="+strconv.Itoa(p.port), "PGUSER=postgres", "PGDATABASE=postgres", "LC_ALL=C")
	return cmd
}

func (p *postgres) must(name string, args ...string) string {
	p.c.t.Helper()
	out, err := p.run(name, args...)
	if err != nil {
		p.c.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// create makes the database, with what pgbench needs and a ledger.
func (p *postgres) create() {
	sh(p.c.t, `install -d -o postgres -g postgres -m 700 "$1/pg"`, p.dir)
	p.must("initdb", "-D", p.dir+"/pg", "-A", "trust")
	p.start()
	p.must("pgbench", "-i", "-q", "-s", "2")
	p.must("psql", "-qc", "CREATE EXTENSION amcheck; CREATE TABLE ledger (n bigint PRIMARY KEY)")
}

func (p *postgres) start() {
	p.c.t.Helper()
	_ = os.Remove(p.dir + "/pg/postmaster.pid") // of a node that is dead
	out, err := p.run("pg_ctl", "start", "-w", "-t", "120", "-D", p.dir+"/pg", "-l", p.log(), "-o",
		fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s/pg -c port=%d -c shared_buffers=32MB -c max_wal_size=128MB", p.dir, p.port))
	if err != nil {
		p.c.t.Fatalf("PostgreSQL does not start: %v\n%s\n%s", err, out, p.said())
	}
}

func (p *postgres) log() string { return p.dir + "/pg/log" }

func (p *postgres) said() string {
	raw, _ := os.ReadFile(p.log())
	return string(raw[max(0, len(raw)-4000):])
}

// stop ends it, if it runs, however it is.
func (p *postgres) stop() {
	cmd := p.command("pg_ctl", "stop", "-m", "immediate", "-w", "-D", p.dir+"/pg")
	stop := exec.Command(cmd.Path, cmd.Args[1:]...) // although the test has ended
	stop.SysProcAttr, stop.Dir = cmd.SysProcAttr, cmd.Dir
	_ = stop.Run() // it may have ended
}

// clients have the database work, until they or it end.
type clients struct {
	p         *postgres
	bench     *exec.Cmd
	ledger    *exec.Cmd
	committed atomic.Int64 // the last number in the ledger that was confirmed
	done      chan struct{}
}

// work starts pgbench, and a client that writes the numbers after last into the ledger,
// each in a transaction.
func (p *postgres) work(last int64) *clients {
	w := &clients{p: p, done: make(chan struct{})}
	w.committed.Store(last)
	w.bench = p.command("pgbench", "-n", "-c", "4", "-T", "3600")
	must(p.c.t, w.bench.Start())
	w.ledger = p.command("psql", "-Atq")
	w.ledger.Stdin = &numbers{next: last + 1}
	out, err := w.ledger.StdoutPipe()
	must(p.c.t, err)
	must(p.c.t, w.ledger.Start())
	go func() {
		defer close(w.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				w.committed.Store(n)
			}
		}
	}()
	return w
}

// numbers are the statements of the ledger.
type numbers struct {
	next int64
	rest []byte
}

func (n *numbers) Read(to []byte) (int, error) {
	if len(n.rest) == 0 {
		n.rest = fmt.Appendf(nil, "INSERT INTO ledger VALUES (%d) ON CONFLICT DO NOTHING; SELECT %d;\n", n.next, n.next)
		n.next++
	}
	took := copy(to, n.rest)
	n.rest = n.rest[took:]
	return took, nil
}

// goOn waits until more has been committed than there is now.
func (w *clients) goOn() {
	w.p.c.t.Helper()
	now := w.committed.Load()
	w.p.c.await("transactions are committed", func(context.Context) bool { return w.committed.Load() > now+50 })
}

// end ends them, and returns the last number that was confirmed.
func (w *clients) end() int64 {
	_ = w.ledger.Process.Kill()
	_ = w.bench.Process.Kill()
	<-w.done
	_, _ = w.ledger.Wait(), w.bench.Wait() // killed
	return w.committed.Load()
}

// verify checks that all numbers up to last are in the ledger, and that the files are sound.
func (p *postgres) verify(last int64) {
	p.c.t.Helper()
	if got := p.must("psql", "-Atc", fmt.Sprintf("SELECT count(*) FROM ledger WHERE n BETWEEN 1 AND %d", last)); got != strconv.FormatInt(last, 10) {
		p.c.t.Errorf("%s of the %d transactions that were confirmed are there", got, last)
	}
	if out, err := p.run("pg_amcheck", "--heapallindexed", "-d", "postgres"); err != nil {
		p.c.t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
}

// ioErrors matches what PostgreSQL says of files that can't be used.
var ioErrors = regexp.MustCompile(`.*(PANIC|Input/output|could not (read|write|fsync|flush|extend|open)).*`)

// TestPostgres has a database work on a replicated volume through what happens to nodes
// and processes.
func TestPostgres(t *testing.T) {
	c := newCluster(t, 3)
	c.volume("pg", 1<<30, 3)
	p := c.newPostgres(c.nodes[0].mount("pg"))
	t.Cleanup(func() { p.stop() })
	p.create()
	last, on := int64(0), 0

	c.during(t, "SeesNoErrorWhileTheDataProcessIsKilled", func(t *testing.T) {
		w := p.work(last)
		began, killed := time.Now(), 0
		for range 4 {
			w.goOn()
			c.nodes[0].restarts("data", c.nodes[0].kill)
		}
		for every := time.NewTicker(time.Second); rounds(0, 1) > 0 && time.Since(began) < 2*time.Minute; <-every.C {
			c.nodes[0].kill("data") // whatever it is doing
			killed++
		}
		t.Logf("the data process was killed %d times in %v", 4+killed, time.Since(began).Round(time.Second))
		w.goOn()
		last = w.end()
		p.verify(last)
		raw, err := os.ReadFile(p.log())
		must(t, err)
		for _, line := range ioErrors.FindAllString(string(raw), -1) {
			t.Errorf("its log has: %s", line)
		}
	})

	c.during(t, "LosesNoTransactionWhenItsNodeDiesAndTheVolumeMoves", func(t *testing.T) {
		for range rounds(3, 20) {
			w := p.work(last)
			w.goOn()
			dead := c.nodes[on]
			dead.crash()
			began := time.Now()
			last = w.end()
			p.stop()
			on = (on + 1) % len(c.nodes)
			dir := c.nodes[on].path("mnt-pg")
			c.nodes[on].take("pg", dir)
			t.Logf("from the node's death to the mount on another: %v", time.Since(began).Round(10*time.Millisecond))
			p = c.newPostgres(dir)
			p.start()
			p.verify(last)
			dead.start()
			c.awaitNodes()
			c.nodes[on].awaitHealth("pg", v1.Health_HEALTH_HEALTHY)
		}
	})

	c.during(t, "ACloneOfItUnderLoadStarts", func(t *testing.T) {
		n, other := c.nodes[on], c.nodes[(on+1)%len(c.nodes)]
		for i := range rounds(1, 6) {
			name, copied := fmt.Sprint("pg-busy-", i), fmt.Sprint("copy-", i)
			w := p.work(last)
			w.goOn()
			before := w.committed.Load()
			changeOfLeader(c, i%2 == 1)
			c.asks(n, "snapshot", "create", "pg", name)
			w.goOn()
			changeOfLeader(c, i%2 == 0)
			c.asks(other, "snapshot", "clone", name, copied)
			c.awaitNodes()
			dir := other.mount(copied)
			clone := c.newPostgres(dir)
			clone.start()
			clone.verify(before)
			last = w.end()
			p.verify(last)
			clone.stop()
			c.remove(copied)
		}
		p.stop()
	})
}

// changeOfLeader, in the long form, kills who leads the metadata store and with it, as a rule,
// the reconcilers.
func changeOfLeader(c *cluster, now bool) {
	if now && long {
		c.leader().kill("control")
	}
}

// asks gives a command to a node until it is taken: without a leader none is.
func (c *cluster) asks(n *node, args ...string) {
	c.t.Helper()
	c.await("holdfast "+strings.Join(args, " "), func(context.Context) bool {
		out, err := n.cli(args...)
		c.saw = out
		return err == nil
	})
}
