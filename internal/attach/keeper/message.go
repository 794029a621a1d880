package keeper

import (
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/block"
)

// The conversation: the client sends a packet (package packet) and gets one, both with
// files where the verb has some.
//
//	hello    min_version, max_version, role: "data" or "tool"; answered when admitted
//	put      entry, files
//	get      name; the answer has entry and files
//	release  name, clean
//	remove   name
//	list     is answered with one packet for each entry, and one without
//
// Every answer has an error and its kind if the verb failed.
//
// Version history. Add a line, raise maxVersion; a keeper that runs is as old as the
// devices that it holds, so clients speak every version that a keeper in the field may.
//
//	1  first
const (
	minVersion = 1
	maxVersion = 1
)

var noVolume block.VolumeID

type request struct {
	Verb       string `json:"verb"`
	MinVersion int    `json:"min_version,omitempty"`
	MaxVersion int    `json:"max_version,omitempty"`
	Role       string `json:"role,omitempty"`
	Name       string `json:"name,omitempty"`
	Clean      bool   `json:"clean,omitempty"`
	Entry      *Entry `json:"entry,omitempty"`
}

type answer struct {
	Version int    `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"` // of the keeper
	Entry   *Entry `json:"entry,omitempty"`
	packet.Failure
}

// The roles of clients.
const (
	roleData = "data" // serves devices
	roleTool = "tool" // looks, and removes what nobody serves
)
