package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Client calls an API server.
type Client struct {
	URL   string
	HTTP  *http.Client
	Token func() (string, error) // of the bearer; nil: none
}

// Where a pod finds what it needs to call the API server.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// callMax is the longest that a call may take.
const callMax = 15 * time.Second

// InCluster returns the client of a pod. Its token is read anew each time: the kubelet
// replaces it.
func InCluster(getenv func(string) string) (*Client, error) {
	const op = "kube.InCluster"
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fault.WithCure(fault.Errorf(op, fault.Precondition, "this is no pod of a Kubernetes cluster"), "name an API server with --kube-url")
	}
	authority, err := os.ReadFile(filepath.Join(serviceAccount, "ca.crt"))
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fault.Errorf(op, fault.Invalid, "there is no certificate in ca.crt")
	}
	return &Client{URL: "https://" + net.JoinHostPort(host, port),
		HTTP: &http.Client{Timeout: callMax, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}},
		Token: func() (string, error) {
			raw, err := os.ReadFile(filepath.Join(serviceAccount, "token"))
			return strings.TrimSpace(string(raw)), err
		}}, nil
}

// answerMax is the longest answer, in bytes, that is read: a list of all pods of a large
// cluster's node.
const answerMax = 256 << 20

// call makes one request. in and out may be nil.
func (c *Client) call(ctx context.Context, method, path, contentType string, in, out any) error {
	const op = "kube.call"
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fault.Wrap(op, err)
		}
		body = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if in != nil {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", "application/json")
	if c.Token != nil {
		token, err := c.Token()
		if err != nil {
			return fault.Wrap(op, err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.HTTP.Do(request)
	if err != nil {
		return fault.Errorf(op, fault.Unavailable, "%s %s: %w", method, path, err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	if err != nil {
		return fault.Errorf(op, fault.Unavailable, "%s %s: %w", method, path, err)
	}
	if answer.StatusCode >= 300 {
		return refusal(op, method+" "+path, answer.StatusCode, raw)
	}
	if out == nil {
		return nil
	}
	return fault.Wrap(op, json.Unmarshal(raw, out))
}

// refusal makes an error of an answer that is none of the good ones.
func refusal(op, what string, code int, raw []byte) error {
	var s struct{ Message string }
	_ = json.Unmarshal(raw, &s) // what is no JSON has no message
	kind := map[int]fault.Kind{http.StatusNotFound: fault.NotFound, http.StatusConflict: fault.Busy, http.StatusForbidden: fault.Denied,
		http.StatusUnauthorized: fault.Denied, http.StatusUnprocessableEntity: fault.Invalid, http.StatusBadRequest: fault.Invalid}[code]
	if kind == fault.Unknown {
		kind = fault.Unavailable
	}
	return fault.Errorf(op, kind, "%s: %s", what, strings.TrimSpace(fmt.Sprint(code, " ", s.Message)))
}

// Content types of the API server.
const (
	plainJSON  = "application/json"
	mergePatch = "application/merge-patch+json"
)

// pageMax is how many objects are asked for at once.
const pageMax = 500

// list gets all objects of a kind, page by page.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) (all []T, err error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", fmt.Sprint(pageMax))
	for {
		var page struct {
			Metadata struct{ Continue string }
			Items    []T
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), "", nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Metadata.Continue == "" {
			return all, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// remove deletes the object that was seen, not one of the same name that came after it. grace
// is how many seconds a pod is given. What is gone already is success.
func (c *Client) remove(ctx context.Context, path, uid string, grace *int64) error {
	options := map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": map[string]any{"uid": uid}}
	if grace != nil {
		options["gracePeriodSeconds"] = *grace
	}
	err := c.call(ctx, http.MethodDelete, path, plainJSON, options, nil)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Busy) { // Busy: another one has the name now
		return nil
	}
	return err
}
