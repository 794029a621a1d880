package kube

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net/http"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"sigs.k8s.io/yaml"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Gathering makes one cluster of the pods of a DaemonSet: the first that creates the
// ConfigMap is the founder; the others join it with the token in the Secret, which every
// member keeps fresh. A node that has been a member needs neither.
type Gathering struct {
	Kube      *Client
	Namespace string
	Log       *slog.Logger
}

// Names of the objects that pods agree by.
const (
	founderMap = "holdfast-founder"
	joinSecret = "holdfast-join"
)

type configMap struct {
	Kind       string            `json:"kind"`
	APIVersion string            `json:"apiVersion"`
	Metadata   meta              `json:"metadata"`
	Data       map[string]string `json:"data"`
}

type secret struct {
	Kind       string            `json:"kind"`
	APIVersion string            `json:"apiVersion"`
	Metadata   meta              `json:"metadata"`
	Data       map[string]string `json:"data"` // base64
}

func (g *Gathering) at(kind, name string) string {
	return "/api/v1/namespaces/" + g.Namespace + "/" + kind + name
}

// Member is a pod that wants to be a node.
type Member struct {
	Node    string // its name in Kubernetes, and in Holdfast
	Address string // host:port of its API, for those who join it
	Config  string // file to write, for holdfast node --config
}

// pollEvery is how often what others do is looked at.
const pollEvery = 2 * time.Second

// Prepare writes the config of a node that is in no cluster yet: that of the founder, who
// joins nobody, or that of one who joins. It waits until it is known how.
func (g *Gathering) Prepare(ctx context.Context, m Member) error {
	founder, err := g.founder(ctx, m)
	if err != nil {
		return err
	}
	values := map[string]any{"name": m.Node}
	if founder != m.Address {
		token, err := g.token(ctx)
		if err != nil {
			return err
		}
		values["join"], values["token"] = founder, token
	}
	raw, err := yaml.Marshal(values)
	if err != nil {
		return fault.Wrap("kube.Prepare", err)
	}
	return fault.Wrap("kube.Prepare", os.WriteFile(m.Config, raw, 0o600))
}

// founder returns the address of the pod that founds the cluster: ours, if nobody was
// faster.
func (g *Gathering) founder(ctx context.Context, m Member) (string, error) {
	mine := configMap{Kind: "ConfigMap", APIVersion: "v1", Metadata: meta{Name: founderMap, Namespace: g.Namespace},
		Data: map[string]string{"node": m.Node, "address": m.Address}}
	err := g.Kube.call(ctx, http.MethodPost, g.at("configmaps", ""), plainJSON, mine, nil)
	if err == nil {
		g.Log.Info("this node founds the cluster", "node", m.Node)
		return m.Address, nil
	}
	if !fault.Is(err, fault.Busy) {
		return "", err
	}
	var there configMap
	if err := g.Kube.call(ctx, http.MethodGet, g.at("configmaps/", founderMap), "", nil, &there); err != nil {
		return "", err
	}
	if there.Data["node"] == m.Node {
		return m.Address, nil // it was us, before a restart
	}
	return there.Data["address"], nil
}

// token waits for the token to join with.
func (g *Gathering) token(ctx context.Context) (string, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var s secret
		err := g.Kube.call(ctx, http.MethodGet, g.at("secrets/", joinSecret), "", nil, &s)
		if raw, decodeErr := base64.StdEncoding.DecodeString(s.Data["token"]); err == nil && decodeErr == nil && len(raw) > 0 {
			return string(raw), nil
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			g.Log.Warn("the token to join with can't be read", obs.Err(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fault.Errorf("kube.Prepare", fault.Timeout, "nobody has made a token to join with: %w", ctx.Err())
		}
	}
}

// How long a token for joining lasts, and when it is replaced.
const (
	tokenLifetime = 7 * 24 * time.Hour
	tokenRenewed  = 24 * time.Hour // since it was made
	inviteEvery   = time.Minute
)

// Invite keeps a fresh token in the Secret, until ctx ends. Every member does.
func (g *Gathering) Invite(ctx context.Context, cluster holdfastv1connect.ClusterServiceClient) {
	for {
		pause := inviteEvery
		if err := g.invite(ctx, cluster); err != nil && ctx.Err() == nil {
			g.Log.Warn("there is no token to join with yet", obs.Err(err))
			pause = pollEvery
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gathering) invite(ctx context.Context, cluster holdfastv1connect.ClusterServiceClient) error {
	var s secret
	err := g.Kube.call(ctx, http.MethodGet, g.at("secrets/", joinSecret), "", nil, &s)
	there := err == nil
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if made, err := base64.StdEncoding.DecodeString(s.Data["made"]); there && err == nil {
		if at, err := time.Parse(time.RFC3339, string(made)); err == nil && time.Since(at) < tokenRenewed {
			return nil
		}
	}
	got, err := cluster.CreateToken(ctx, &holdfastv1.CreateTokenRequest{Kind: holdfastv1.TokenKind_TOKEN_KIND_JOIN, Subject: "Kubernetes", Lifetime: durationpb.New(tokenLifetime)})
	if err != nil {
		return rpc.Fault("kube.Invite", err)
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	next := secret{Kind: "Secret", APIVersion: "v1", Metadata: meta{Name: joinSecret, Namespace: g.Namespace, ResourceVersion: s.Metadata.ResourceVersion},
		Data: map[string]string{"token": encode(got.Secret), "made": encode(time.Now().UTC().Format(time.RFC3339))}}
	if there {
		err = g.Kube.call(ctx, http.MethodPut, g.at("secrets/", joinSecret), plainJSON, next, nil)
	} else {
		err = g.Kube.call(ctx, http.MethodPost, g.at("secrets", ""), plainJSON, next, nil)
	}
	if fault.Is(err, fault.Busy) {
		return nil // another member was faster
	}
	return err
}
