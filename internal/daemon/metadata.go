package daemon

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
)

// metadata is the server's Metadata: it asks the members, and remembers for a moment what
// they said.
type metadata struct {
	controller *controller
	survey     *member.Steward

	mu        sync.Mutex
	asked     time.Time
	status    *v1.Metadata
	endpoints []string
}

// believedFor is how long what members said is believed.
const believedFor = 3 * time.Second

func (x *controller) metadata() *metadata {
	return &metadata{controller: x, survey: &member.Steward{Store: x.store, TLS: x.wallet.Client()}}
}

// Status returns how the store does, and the URLs that new nodes are to use.
func (m *metadata) Status(ctx context.Context) (*v1.Metadata, []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) > believedFor {
		if m.controller.config.external() {
			m.askExternal(ctx)
		} else {
			m.ask(ctx)
		}
		m.asked = time.Now()
	}
	return m.status, m.endpoints
}

func (m *metadata) askExternal(ctx context.Context) {
	m.status, m.endpoints = &v1.Metadata{Kind: "external", Reachable: true}, nil
	_, err := m.controller.store.Get(ctx, state.ClusterKey)
	m.problem(err)
	for _, url := range m.controller.config.EtcdEndpoints {
		m.status.Members = append(m.status.Members, &v1.MetadataMember{Address: url, Healthy: err == nil})
	}
}

func (m *metadata) problem(err error) {
	if err != nil && !fault.Is(err, fault.NotFound) {
		what, cure := fault.Describe(err)
		m.status.Reachable, m.status.Problem = false, what+"; "+cure
	}
}

func (m *metadata) ask(ctx context.Context) {
	m.status = &v1.Metadata{Kind: "embedded", Reachable: true}
	members, statuses, err := m.survey.Survey(ctx)
	before := m.endpoints
	m.endpoints = nil
	down, voters := 0, 0
	for i, one := range members {
		out := &v1.MetadataMember{Name: strconv.FormatUint(one.ID, 16), NodeId: one.Name, Learner: one.IsLearner}
		if len(one.ClientURLs) > 0 {
			out.Address = one.ClientURLs[0]
		}
		if st := statuses[i]; st != nil {
			out.Healthy, out.Leader, out.SizeBytes = st.Leader != 0, st.Leader == one.ID, st.DbSize
		}
		if !one.IsLearner {
			voters++
			m.endpoints = append(m.endpoints, one.ClientURLs...)
			if !out.Healthy {
				down++
			}
		}
		m.status.Members = append(m.status.Members, out)
	}
	slices.Sort(m.endpoints)
	if down > 0 {
		m.status.Problem = strconv.Itoa(down) + " of " + strconv.Itoa(voters) + " members are down; start their nodes again, or wait: another node takes a member's place after " +
			m.controller.config.ReplaceMemberAfter.String() + " if there is one"
	}
	if err != nil {
		m.endpoints = before // they may do
		m.problem(err)
		if down > 0 {
			m.status.Problem = fmt.Sprintf("%d of the %d members that vote do not answer, or have no majority; start their nodes again; if they are gone for good: holdfast metadata restore", down, voters)
		}
	}
}
