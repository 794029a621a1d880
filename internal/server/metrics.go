package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// metrics counts calls, and describes the cluster when it is scraped.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	running  *prometheus.GaugeVec
	all      prometheus.Gatherers
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "holdfast_api_call_seconds", Help: "How long calls of the API took, by call and outcome.",
			Buckets: []float64{0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30}}, []string{"call", "code"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_api_calls_running", Help: "Calls of the API that have not ended, watches among them."}, []string{"call"}),
	}
	m.registry.MustRegister(m.calls, m.running, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &inventory{s.view, s.options.Data, s.options.Metadata})
	m.all = prometheus.Gatherers{m.registry}
	if s.options.Data != "" {
		m.all = append(m.all, dataMetrics(s.options.Data))
	}
	return m
}

func (m *metrics) begun(procedure string) { m.running.WithLabelValues(protoName(procedure)).Inc() }

// ended counts a call. How long a watch took says nothing.
func (m *metrics) ended(procedure, code string, took time.Duration, stream bool) {
	m.running.WithLabelValues(protoName(procedure)).Dec()
	if !stream {
		m.calls.WithLabelValues(protoName(procedure), code).Observe(took.Seconds())
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// volumesMax bounds how many volumes have figures of their own: those that are attached,
// or that need attention, in the order of their ids.
const volumesMax = 1000

// inventory describes the cluster, from the view, whenever it is scraped.
type inventory struct {
	*view
	data     string // socket of the data process
	metadata Metadata
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	descStateUp      = desc("state_reachable", "1 when the cluster's state can be reached from this server.")
	descNodes        = desc("nodes", "Nodes by state.", "state")
	descNodeUp       = desc("node_up", "1 when the node's lease runs.", "node")
	descPoolHealthy  = desc("pool_healthy", "1 when the pool is healthy and its node up.", "pool", "node")
	descPoolCapacity = desc("pool_capacity_bytes", "Size of the pool.", "pool", "node", "class")
	descPoolUsed     = desc("pool_used_bytes", "What of the pool is in use.", "pool", "node", "class")
	descPoolPromised = desc("pool_promised_bytes", "Sizes of the volumes with a replica in the pool, those in the trash too.", "pool", "node", "class")
	descMembers      = desc("state_members", "Members of the cluster's embedded etcd, by how they are: leader, voter, learner or down.", "state")
	descStateBytes   = desc("state_size_bytes", "Size of the largest member's database.")
	descPoolReserve  = desc("pool_reserve_bytes", "What of the pool is kept free.", "pool", "node", "class")
	descVolumes      = desc("volumes", "Volumes by health.", "health")
	descReplicas     = desc("replicas", "Replicas by state.", "state")
	descSnapshots    = desc("snapshots", "Snapshots.")
	descAttachments  = desc("attachments", "Attachments by state.", "state")
	descResyncLeft   = desc("resync_left_bytes", "What replicas that catch up have yet to look at.")
	descOperations   = desc("operations_running", "Operations that have not ended, by kind.", "kind")
	descData         = desc("data_reachable", "1 when the data process of this server's node shows its own metrics.")
	descVolHealthy   = desc("volume_healthy", "1 when every replica of the volume is in sync and there. Only attached volumes and those that need attention, 1000 at most.", "volume", "volume_id")
	descVolSize      = desc("volume_size_bytes", "Size of the volume's device.", "volume", "volume_id")
	descVolUsed      = desc("volume_used_bytes", "What the largest replica of the volume takes.", "volume", "volume_id")
)

var descriptions = []*prometheus.Desc{descStateUp, descNodes, descNodeUp, descPoolHealthy, descPoolCapacity, descPoolUsed, descPoolPromised, descPoolReserve, descMembers, descStateBytes,
	descVolumes, descReplicas, descSnapshots, descAttachments, descResyncLeft, descOperations, descVolHealthy, descVolSize, descVolUsed, descData}

// Describe names the figures.
func (i *inventory) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		out <- d
	}
}

// Collect takes the figures.
func (i *inventory) Collect(out chan<- prometheus.Metric) {
	g := gauge{out}
	g.set(descStateUp, float64(one(i.stale() == nil)))
	if i.data != "" {
		g.set(descData, float64(one(answers(i.data))))
	}
	i.members(g)
	i.nodesAndPools(g)
	i.volumesAndReplicas(g)
	g.set(descSnapshots, float64(i.snapshots.Len()))
	kinds := counts{}
	for _, e := range i.operations.List() {
		if !e.Value.Done {
			kinds[e.Value.Kind]++
		}
	}
	g.each(descOperations, kinds)
}

// membersMax is how long members may take to say how they are.
const membersMax = 3 * time.Second

// members counts the members of the store, by how they are.
func (i *inventory) members(g gauge) {
	states, size := counts{"leader": 0, "voter": 0, "learner": 0, "down": 0}, int64(0)
	if i.metadata != nil {
		ctx, cancel := context.WithTimeout(context.Background(), membersMax)
		defer cancel()
		status, _ := i.metadata.Status(ctx)
		for _, m := range status.GetMembers() {
			state := "voter"
			switch {
			case !m.Healthy:
				state = "down"
			case m.Leader:
				state = "leader"
			case m.Learner:
				state = "learner"
			}
			states[state]++
			size = max(size, m.SizeBytes)
		}
	}
	g.each(descMembers, states)
	g.set(descStateBytes, float64(size))
}

// gauge sends figures.
type gauge struct{ out chan<- prometheus.Metric }

func (g gauge) set(d *prometheus.Desc, value float64, labels ...string) {
	g.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (g gauge) each(d *prometheus.Desc, by counts) {
	for label, n := range by {
		g.set(d, float64(n), label)
	}
}

// counts is how many there are of each.
type counts map[string]int

// enumerated begins with 0 of every value of an enumeration.
func enumerated(names map[int32]string, prefix string) counts {
	c := counts{}
	for number, name := range names {
		if number != 0 {
			c[word(name, prefix)] = 0
		}
	}
	return c
}

func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func (i *inventory) nodesAndPools(g gauge) {
	states := enumerated(v1.NodeState_name, "NODE_STATE_")
	for _, e := range i.nodes.List() {
		n := i.node(e)
		states[word(n.Status.State.String(), "NODE_STATE_")]++
		g.set(descNodeUp, float64(one(i.up(e.ID))), n.GetMeta().GetName())
	}
	g.each(descNodes, states)
	for _, e := range i.pools.List() {
		p := i.poolOf(e)
		name, node := p.GetMeta().GetName(), i.nodeName(p.GetSpec().GetNodeId())
		g.set(descPoolHealthy, float64(one(p.Status.Healthy)), name, node)
		g.set(descPoolCapacity, float64(p.Status.CapacityBytes), name, node, p.Status.Class)
		g.set(descPoolUsed, float64(p.Status.UsedBytes), name, node, p.Status.Class)
		g.set(descPoolPromised, float64(p.Status.PromisedBytes), name, node, p.Status.Class)
		g.set(descPoolReserve, float64(p.Status.ReserveBytes), name, node, p.Status.Class)
	}
}

func (i *inventory) volumesAndReplicas(g gauge) {
	health, replicas := enumerated(v1.Health_name, "HEALTH_"), enumerated(v1.ReplicaState_name, "REPLICA_STATE_")
	devices := enumerated(v1.AttachmentState_name, "ATTACHMENT_STATE_")
	left, named := int64(0), 0
	for _, e := range i.volumes.List() {
		v := i.volume(e)
		health[word(v.Status.Health.String(), "HEALTH_")]++
		for _, r := range v.Status.Replicas {
			replicas[word(r.State.String(), "REPLICA_STATE_")]++
			left += max(0, r.Progress.GetTotalBytes()-r.Progress.GetDoneBytes())
		}
		if v.Status.Attachment != nil {
			devices[word(v.Status.Attachment.State.String(), "ATTACHMENT_STATE_")]++
		}
		if (v.Status.Attachment != nil || needsAttention(v)) && named < volumesMax {
			named++
			g.volume(v)
		}
	}
	g.each(descVolumes, health)
	g.each(descReplicas, replicas)
	g.each(descAttachments, devices)
	g.set(descResyncLeft, float64(left))
}

func (g gauge) volume(v *v1.Volume) {
	name, id := v.Meta.GetName(), v.Meta.GetId()
	g.set(descVolHealthy, float64(one(v.Status.Health == v1.Health_HEALTH_HEALTHY)), name, id)
	g.set(descVolSize, float64(v.Spec.GetSizeBytes()), name, id)
	g.set(descVolUsed, float64(v.Status.UsedBytes), name, id)
}
