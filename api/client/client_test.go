package client

import (
	"crypto/tls"
	"net/http"
	"testing"
)

func TestAnAddressWithoutAPortHasTheUsualOne(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1":            "https://10.0.0.1:7400",
		"10.0.0.1:17400":      "https://10.0.0.1:17400",
		"n1.example":          "https://n1.example:7400",
		"[fd00::1]":           "https://[fd00::1]:7400",
		"fd00::1":             "https://[fd00::1]:7400",
		"[fd00::1]:17400":     "https://[fd00::1]:17400",
		"https://n1.example":  "https://n1.example",
		"http://127.0.0.1:80": "http://127.0.0.1:80",
		"/run/api.sock":       "http://holdfast",
	} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		got, err := Options{Address: address, TLS: new(tls.Config)}.prepare(transport)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
}
