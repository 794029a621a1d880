package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
)

// Config is what a node is told, by flags, the environment or a file; see Flags for what
// each part means.
type Config struct {
	DataDir, RunDir, LinkDir string
	Name                     string
	Cluster                  string // name of a cluster that is made
	Address                  string
	Listen                   string
	Names                    []string // more addresses for the certificate
	APIPort, DataPort        int
	EtcdPort, PeerPort       int

	Join, Token        string
	Restore            string // a dump with which a machine that is nobody begins its cluster again
	Labels             map[string]string
	Region, Zone, Rack string

	Pools    []string
	PoolSize string

	IOWait                          time.Duration
	ExportCA, ExportCert, ExportKey string
	KeeperApart                     bool

	NoMember                     bool
	EtcdEndpoints                []string
	EtcdCA, EtcdCert, EtcdKey    string
	EtcdUser, EtcdPasswordFile   string
	EtcdPrefix                   string
	ReplaceMemberAfter, DumpEach time.Duration
	DumpsKept                    int
}

// Flags adds a flag for each part of the config.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.StringVar(&c.DataDir, "data-dir", "/var/lib/holdfast", "`directory` for all that the node keeps: who it is, certificates, etcd, dumps, the first pool")
	f.StringVar(&c.RunDir, "run-dir", "/run/holdfast", "`directory` for sockets and process ids; a short path")
	f.StringVar(&c.LinkDir, "link-dir", "/dev/holdfast", "`directory` for the stable names of devices")
	f.StringVar(&c.Name, "name", "", "of the node (default: the machine's)")
	f.StringVar(&c.Cluster, "cluster-name", "holdfast", "of the cluster, for people, if this node makes it")
	f.StringVar(&c.Address, "address", "", "`IP` or name at which other nodes reach this one (default: that of the route to the world; also HOLDFAST_NODE_ADDRESS)")
	f.StringVar(&c.Listen, "listen", "", "`IP` to listen at (default: the address if it is an IP of this machine, else all)")
	f.StringSliceVar(&c.Names, "certificate-names", nil, "more names and IPs at which people reach the API")
	f.IntVar(&c.APIPort, "api-port", 7400, "of the API")
	f.IntVar(&c.DataPort, "data-port", 7401, "of the traffic between replicas")
	f.IntVar(&c.EtcdPort, "etcd-port", 7402, "of this node's etcd, for clients")
	f.IntVar(&c.PeerPort, "etcd-peer-port", 7403, "of this node's etcd, for its peers")
	f.StringVar(&c.Join, "join", "", "`address` of a node of the cluster to join; without it, a node that is in no cluster makes one")
	f.StringVar(&c.Token, "token", "", "with which to join, from holdfast token create (also HOLDFAST_JOIN_TOKEN)")
	f.StringVar(&c.Restore, "restore", "", "`file` with a dump of the metadata: begin its cluster again on this machine, which is in none, when the machines of all its nodes are lost")
	f.StringToStringVar(&c.Labels, "label", nil, "`key=value`, of a node that joins")
	f.StringVar(&c.Region, "region", "", "where a node that joins is")
	f.StringVar(&c.Zone, "zone", "", "where a node that joins is")
	f.StringVar(&c.Rack, "rack", "", "where a node that joins is")
	f.StringSliceVar(&c.Pools, "pool", nil, "`directory` of a pool of this node; made if it is none yet (default with holdfast up: pool in the data directory)")
	f.StringVar(&c.PoolSize, "pool-size", "", "of pools that are made as a file, such as 20Gi (default: half of what is free)")
	f.DurationVar(&c.IOWait, "io-wait", attach.DefaultWait, "how long I/O of this node's devices waits for a data process that is gone, before it fails")
	f.StringVar(&c.ExportCA, "export-ca", "", "`file` with whom to believe of those who connect to exports over TCP (default: the nodes of this cluster)")
	f.StringVar(&c.ExportCert, "export-cert", "", "`file` with the certificate of exports over TCP (default: the node's)")
	f.StringVar(&c.ExportKey, "export-key", "", "`file` with the key of export-cert")
	f.BoolVar(&c.KeeperApart, "keeper-apart", false, "somebody else runs holdfast keeper, as in Kubernetes: wait for it, and neither start nor end one")
	f.BoolVar(&c.NoMember, "no-etcd-member", false, "never run a member of the embedded etcd on this node")
	f.StringSliceVar(&c.EtcdEndpoints, "etcd-endpoints", nil, "`URLs` of an etcd of yours, instead of the embedded one")
	f.StringVar(&c.EtcdCA, "etcd-ca", "", "`file` with whom to believe at etcd-endpoints")
	f.StringVar(&c.EtcdCert, "etcd-cert", "", "`file` with the certificate for etcd-endpoints")
	f.StringVar(&c.EtcdKey, "etcd-key", "", "`file` with the key of etcd-cert")
	f.StringVar(&c.EtcdUser, "etcd-user", "", "at etcd-endpoints")
	f.StringVar(&c.EtcdPasswordFile, "etcd-password-file", "", "`file` with the password of etcd-user")
	f.StringVar(&c.EtcdPrefix, "etcd-prefix", "", "before all keys at etcd-endpoints, if that etcd is not for Holdfast alone")
	f.DurationVar(&c.ReplaceMemberAfter, "replace-member-after", 3*time.Minute, "a member of the embedded etcd that is down for so long is replaced by another node")
	f.DurationVar(&c.DumpEach, "dump-every", 2*time.Minute, "between dumps of the metadata into the data directory; 0 for none")
	f.IntVar(&c.DumpsKept, "dumps-kept", 10, "how many dumps are kept")
}

// variable returns the environment variable of a flag: its name in capitals, with
// underscores, after HOLDFAST_. Two are called otherwise, because all commands have those
// for where the API is and who asks.
func variable(flag string) string {
	switch flag {
	case "address":
		return "HOLDFAST_NODE_ADDRESS"
	case "token":
		return "HOLDFAST_JOIN_TOKEN"
	}
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Load completes flags that were not given from the environment, and then from a YAML file
// with the flags' names as keys, if there is one.
func Load(f *pflag.FlagSet, getenv func(string) string, file string) error {
	given := map[string]any{}
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return fault.E("daemon.Load", fault.KindOf(err), block.VolumeID{}, err)
		}
		if err := yaml.Unmarshal(raw, &given); err != nil {
			return fault.Errorf("daemon.Load", fault.Invalid, "%s: %w", file, err)
		}
	}
	for key := range given {
		if f.Lookup(key) == nil {
			return fault.WithCure(fault.Errorf("daemon.Load", fault.Invalid, "%s: there is no setting %q", file, key),
				"use the names of the flags: see holdfast node --help")
		}
	}
	var failed error
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || failed != nil {
			return
		}
		env := variable(flag.Name)
		where, text := env, getenv(env)
		if v, ok := given[flag.Name]; ok && text == "" {
			where, text = file, plain(v)
		}
		if text == "" {
			return
		}
		if err := f.Set(flag.Name, text); err != nil {
			failed = fault.Errorf("daemon.Load", fault.Invalid, "%s: %w", where, err)
		}
	})
	return failed
}

// plain returns a value of YAML as a flag would have it.
func plain(v any) string {
	switch v := v.(type) {
	case []any:
		var parts []string
		for _, p := range v {
			parts = append(parts, plain(p))
		}
		return strings.Join(parts, ",")
	case map[string]any:
		var parts []string
		for k, p := range v {
			parts = append(parts, k+"="+plain(p))
		}
		slices.Sort(parts)
		return strings.Join(parts, ",")
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// Complete fills in what can be found out, and checks the rest.
func (c *Config) Complete() (err error) {
	const op = "daemon.Config"
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fault.Wrap(op, err)
		}
		c.Name = nameFrom(host)
	}
	if err := server.CheckName(c.Name); err != nil {
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "--name: %q can't be the name of a node", c.Name), cureOf(err))
	}
	if c.Address == "" {
		if c.Address, err = outward(); err != nil {
			return fault.WithCure(fault.Errorf(op, fault.Invalid, "no address of this machine can be found: %w", err), "give one with --address")
		}
	}
	if c.Listen == "" {
		c.Listen = "0.0.0.0"
		if isLocal(c.Address) {
			c.Listen = c.Address
		}
	}
	if c.Join != "" && c.Token == "" {
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "to join a cluster takes --join and --token"), "make a token on a node of the cluster: holdfast token create")
	}
	if c.Join != "" && c.Restore != "" {
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "--restore and --join can't go together"), "restore on one machine, and let the others join that one")
	}
	if c.IOWait <= 0 {
		return fault.Errorf(op, fault.Invalid, "--io-wait %v: I/O can't wait for so long", c.IOWait)
	}
	if (c.ExportCert == "") != (c.ExportKey == "") {
		return fault.Errorf(op, fault.Invalid, "--export-cert and --export-key go together")
	}
	for _, dir := range []*string{&c.DataDir, &c.RunDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return fault.Wrap(op, err)
		}
	}
	if len(c.keeperSocket()) > socketLengthMax {
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "the path %s is too long for a socket", c.keeperSocket()), "choose a shorter --run-dir")
	}
	return nil
}

// nameFrom returns the name of a node on a machine of a name, which may be any: kernels say
// (none) where nobody has given one. It may be the name of another node; then the cluster
// says so.
func nameFrom(host string) string {
	clean := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r)) {
			return unicode.ToLower(r)
		}
		return '-'
	}, host)
	clean = strings.Trim(clean, "._-")
	if clean == "none" || server.CheckName(clean) != nil {
		return "node"
	}
	return clean
}

func cureOf(err error) string {
	_, cure := fault.Describe(err)
	return cure
}

// socketLengthMax is the kernel's limit for the path of a Unix socket.
const socketLengthMax = 107

// outward returns the address from which the machine reaches others.
func outward() (string, error) {
	c, err := net.Dial("udp", "192.0.2.1:9") // sends nothing
	if err != nil {
		return "127.0.0.1", nil // a machine without a network is a cluster of one
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}

// isLocal reports whether address is an IP of this machine.
func isLocal(address string) bool {
	ip := net.ParseIP(address)
	if ip == nil {
		return false
	}
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return false
	}
	_ = l.Close() // it was only to see
	return true
}

// DefaultPool is the pool of holdfast up.
func (c *Config) DefaultPool() string { return filepath.Join(c.DataDir, "pool") }

// Where things are.
func (c *Config) trustDir() string      { return filepath.Join(c.DataDir, "trust") }
func (c *Config) etcdDir() string       { return filepath.Join(c.DataDir, "etcd") }
func (c *Config) dumpsDir() string      { return filepath.Join(c.DataDir, "dumps") }
func (c *Config) endpointsFile() string { return filepath.Join(c.DataDir, "endpoints") }
func (c *Config) foundingFile() string  { return filepath.Join(c.DataDir, "founding.pem") }
func (c *Config) poolsFile() string     { return filepath.Join(c.DataDir, "pools.list") }
func (c *Config) joiningFile() string   { return filepath.Join(c.DataDir, "joining") }
func (c *Config) restoreFile() string   { return filepath.Join(c.DataDir, "restore.dump") }
func (c *Config) keeperSocket() string  { return filepath.Join(c.RunDir, "keeper.sock") }
func (c *Config) apiSocket() string     { return filepath.Join(c.RunDir, "api.sock") }
func (c *Config) debugSocket() string   { return filepath.Join(c.RunDir, "debug.sock") }
func (c *Config) exportDir() string     { return filepath.Join(c.RunDir, "export") }
func (c *Config) childConfig() string   { return filepath.Join(c.RunDir, "node.yaml") }
func (c *Config) pidFile(of string) string {
	return filepath.Join(c.RunDir, of+".pid")
}

func (c *Config) at(port int) string       { return net.JoinHostPort(c.Address, strconv.Itoa(port)) }
func (c *Config) listenAt(port int) string { return net.JoinHostPort(c.Listen, strconv.Itoa(port)) }

func (c *Config) clientURL() string { return member.URL(true, c.Address, c.EtcdPort) }
func (c *Config) peerURL() string   { return member.URL(true, c.Address, c.PeerPort) }

// external reports whether the metadata is in somebody else's etcd.
func (c *Config) external() bool { return len(c.EtcdEndpoints) > 0 }

// save writes the config, as it is now, for the node's other processes. The token stays
// out of it.
func (c *Config) save() error {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	shown := *c
	shown.Token, shown.Join, shown.Restore = "", "", ""
	values := map[string]any{}
	shadow := Config{}
	shadow.Flags(f)
	shadow = shown // the flags now print what is in it
	f.VisitAll(func(flag *pflag.Flag) {
		switch text := flag.Value.String(); flag.Value.Type() {
		case "stringSlice", "stringToString":
			values[flag.Name] = strings.Trim(text, "[]")
		default:
			values[flag.Name] = text
		}
	})
	raw, err := yaml.Marshal(values)
	if err != nil {
		return fault.E("daemon.Config", fault.Internal, block.VolumeID{}, err)
	}
	return fault.Wrap("daemon.Config", replace(c.childConfig(), raw))
}

// replace puts raw in the place of a file that only root may read; a crash leaves the old
// one or the new one.
func replace(path string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is the first error that counts
	}
	return err
}
