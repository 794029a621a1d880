package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/dump"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
	"github.com/holdfast-io/holdfast/internal/trust"
)

const dumpSuffix = ".dump"

// dump writes dumps of the metadata, and deletes the oldest.
func (x *controller) dump(ctx context.Context) {
	c := x.config
	if c.DumpEach <= 0 {
		return
	}
	for {
		pause(ctx, c.DumpEach)
		if ctx.Err() != nil {
			return
		}
		if _, err := c.writeDump(ctx, x.store, x.wallet); err != nil && ctx.Err() == nil {
			x.log.Warn("the metadata was not dumped; the dumps of before are kept", obs.Err(err))
		}
	}
}

// writeDump writes a dump into the data directory, and deletes those that are too many.
func (c *Config) writeDump(ctx context.Context, s state.Store, w *trust.Wallet) (string, error) {
	const op = "daemon.dump"
	if err := os.MkdirAll(c.dumpsDir(), 0o700); err != nil {
		return "", fault.Wrap(op, err)
	}
	var b bytes.Buffer
	h := dump.Header{Cluster: w.Identity().Cluster.String(), Node: w.Identity().Node.String(), Time: time.Now().UTC()}
	if err := dump.Write(ctx, s, &h, &b); err != nil {
		return "", err
	}
	name := filepath.Join(c.dumpsDir(), h.Time.Format("20060102T150405.000Z")+dumpSuffix)
	if err := replace(name, b.Bytes()); err != nil {
		return "", fault.Wrap(op, err)
	}
	old, err := c.Dumps()
	if err != nil {
		return name, err
	}
	for _, name := range old[:max(0, len(old)-max(c.DumpsKept, 1))] {
		if err := os.Remove(name); err != nil {
			return name, fault.Wrap(op, err)
		}
	}
	return name, nil
}

// Dumps returns the files of the dumps that are kept, the oldest first.
func (c *Config) Dumps() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(c.dumpsDir(), "*"+dumpSuffix))
	slices.Sort(names) // they begin with their times
	return names, fault.Wrap("daemon.Dumps", err)
}

// restorePending begins the cluster's metadata anew with a dump, if one lies there to be
// restored: this node's member is then the only one.
func (c *Config) restorePending(ctx context.Context, w *trust.Wallet, log *slog.Logger) error {
	const op = "daemon.restore"
	raw, err := os.ReadFile(c.restoreFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(op, err)
	}
	h, items, err := c.checkDump(raw, w)
	if err != nil {
		return err
	}
	log.Warn("the metadata begins anew from a dump", "of", h.Time, "items", h.Items)
	if c.external() {
		store, err := c.openExternal()
		if err != nil {
			return err
		}
		defer store.Close()
		if err := fillAnew(ctx, store, items); err != nil {
			return err
		}
	} else if err := c.restoreMember(ctx, w, items, log); err != nil {
		return err
	}
	return fault.Wrap(op, os.Rename(c.restoreFile(), c.restoreFile()+"ed"))
}

// checkDump reads a dump, and makes sure that it is of this cluster.
func (c *Config) checkDump(raw []byte, w *trust.Wallet) (dump.Header, []state.Item, error) {
	h, items, err := dump.Read(bytes.NewReader(raw))
	if err != nil {
		return h, nil, err
	}
	if cluster := w.Identity().Cluster.String(); h.Cluster != cluster {
		return h, nil, fault.WithCure(fault.Errorf("daemon.restore", fault.Precondition, "the dump is of cluster %s, this node of %s", h.Cluster, cluster),
			"choose a dump of this cluster; those of this node are in "+c.dumpsDir())
	}
	return h, items, nil
}

// restoreMember puts this node's member aside, and makes one that begins a cluster with
// items.
func (c *Config) restoreMember(ctx context.Context, w *trust.Wallet, items []state.Item, log *slog.Logger) error {
	next := incarnationOf(items) + 1
	if was, err := member.Kept(c.etcdDir()); err == nil {
		next = max(next, was+1)
	}
	if err := member.Forget(c.etcdDir()); err != nil {
		return err
	}
	token := fmt.Sprintf("%s-%d-%d", w.Identity().Cluster, next, time.Now().UnixNano())
	begun, err := member.Start(ctx, member.Options{Dir: c.etcdDir(), Name: w.Identity().Node.String(), PeerURL: c.peerURL(), ClientURL: c.clientURL(),
		ListenPeer: member.URL(true, c.Listen, c.PeerPort), ListenClient: member.URL(true, c.Listen, c.EtcdPort), Wallet: w, Token: token, Log: log})
	if err != nil {
		return err
	}
	defer begun.Close()
	store, err := etcd.Open(etcd.Options{Endpoints: []string{c.clientURL()}, TLS: w.Client()})
	if err != nil {
		return err
	}
	defer store.Close()
	items = slices.DeleteFunc(items, func(i state.Item) bool { return i.Key == state.IncarnationKey })
	items = append(items, state.Item{Key: state.IncarnationKey, Value: []byte(strconv.FormatInt(next, 10))})
	if err := dump.Fill(ctx, store, items); err != nil {
		return err
	}
	if err := replace(c.endpointsFile(), []byte(c.clientURL()+"\n")); err != nil {
		return fault.Wrap("daemon.restore", err)
	}
	return member.Found(c.etcdDir(), token, next)
}

func incarnationOf(items []state.Item) int64 {
	for _, i := range items {
		if i.Key == state.IncarnationKey {
			n, _ := strconv.ParseInt(string(i.Value), 10, 64) // 0 is the first
			return n
		}
	}
	return 0
}

// fillAnew fills an etcd that must have no cluster in it.
func fillAnew(ctx context.Context, s state.Store, items []state.Item) error {
	there, _, err := s.List(ctx, state.Root)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fault.WithCure(fault.Errorf("daemon.restore", fault.Exists, "the etcd at --etcd-endpoints holds %d keys of a cluster already", len(there)),
			"delete what is below "+state.Root+" with etcdctl, or give another --etcd-prefix to all nodes")
	}
	return dump.Fill(ctx, s, items)
}

// Metadata are the commands that work on a node's metadata without its API. Open it with
// OpenMetadata.
type Metadata struct {
	config *Config
	wallet *trust.Wallet
	store  *etcd.Store
	log    *slog.Logger
}

// OpenMetadata opens the metadata of the node whose run directory it is.
func OpenMetadata(o ChildOptions) (*Metadata, error) {
	c, w, err := o.load()
	if err != nil {
		return nil, err
	}
	store, err := c.openStore(w)
	if err != nil {
		return nil, err
	}
	return &Metadata{config: c, wallet: w, store: store, log: o.Log}, nil
}

// Close lets go of the metadata.
func (m *Metadata) Close() { _ = m.store.Close() } // nothing is lost with it

// Dump writes a dump: into the file, or, if that is "", among those that are kept. It
// returns where.
func (m *Metadata) Dump(ctx context.Context, file string) (string, error) {
	if file == "" {
		return m.config.writeDump(ctx, m.store, m.wallet)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fault.Wrap("daemon.dump", err)
	}
	h := dump.Header{Cluster: m.wallet.Identity().Cluster.String(), Node: m.wallet.Identity().Node.String(), Time: time.Now().UTC()}
	err = dump.Write(ctx, m.store, &h, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fault.E("daemon.dump", fault.KindOf(err), block.VolumeID{}, err)
	}
	return file, nil
}

// Dumps returns the dumps that this node keeps, the oldest first.
func (m *Metadata) Dumps() ([]string, error) { return m.config.Dumps() }

// Member is a member of the metadata store, as people see it.
type Member struct {
	ID      string `json:"id"`
	Node    string `json:"node"`
	Name    string `json:"name"` // of the node, for people; empty when it is not known
	Address string `json:"address"`
	Role    string `json:"role"` // leader, voter or learner
	Healthy bool   `json:"healthy"`
	Bytes   int64  `json:"bytes"`
}

// Members returns the members of the metadata store.
func (m *Metadata) Members(ctx context.Context) (list []Member, err error) {
	if m.config.external() {
		return nil, fault.WithCure(fault.Errorf("daemon.members", fault.Unsupported, "the metadata is in an etcd of yours"), "ask etcdctl member list")
	}
	survey := &member.Steward{Store: m.store, TLS: m.wallet.Client()}
	members, statuses, err := survey.Survey(ctx)
	names := map[string]string{}
	nodes, _, _ := state.Nodes.List(ctx, m.store) // without a majority ids have to do
	for _, n := range nodes {
		names[n.ID] = n.Value.GetMeta().GetName()
	}
	for i, one := range members {
		out := Member{ID: strconv.FormatUint(one.ID, 16), Node: one.Name, Name: names[one.Name], Address: strings.Join(one.ClientURLs, ","), Role: "voter"}
		if st := statuses[i]; st != nil {
			out.Healthy, out.Bytes = st.Leader != 0, st.DbSize
			if st.Leader == one.ID {
				out.Role = "leader"
			}
		}
		if one.IsLearner {
			out.Role = "learner"
		}
		list = append(list, out)
	}
	return list, err
}

// restorePatience is how long a restore may take.
const restorePatience = 2 * time.Minute

// Restore begins the cluster's metadata anew with a dump, on this node alone: by its
// control process if that runs, so that its volumes go on. It returns what the dump is of.
func (m *Metadata) Restore(ctx context.Context, file string) (dump.Header, error) {
	const op = "daemon.restore"
	raw, err := os.ReadFile(file)
	if err != nil {
		return dump.Header{}, fault.Wrap(op, err)
	}
	h, _, err := m.config.checkDump(raw, m.wallet)
	if err != nil {
		return h, err
	}
	if err := replace(m.config.restoreFile(), raw); err != nil {
		return h, fault.Wrap(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, restorePatience)
	defer cancel()
	lock, err := lockControl(m.config)
	if err == nil {
		defer lock.Close()
		return h, m.config.restorePending(ctx, m.wallet, m.log)
	}
	pid, err := readPID(m.config.pidFile("control"))
	if err != nil {
		return h, err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil { // the node starts it again
		return h, fault.Wrap(op, err)
	}
	for {
		if _, err := os.Stat(m.config.restoreFile()); errors.Is(err, os.ErrNotExist) {
			return h, nil
		}
		if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return h, fault.WithCure(fault.Errorf(op, fault.Timeout, "the control process of this node does not take the dump"), "see its log")
		}
	}
}
