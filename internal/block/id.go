package block

import (
	"encoding/hex"
	"fmt"
	"io"
)

// id is 128 random bits; the named types below keep one kind of id from being
// passed for another.
type id [16]byte

func (v id) String() string {
	var b [36]byte
	hex.Encode(b[0:8], v[0:4])
	hex.Encode(b[9:13], v[4:6])
	hex.Encode(b[14:18], v[6:8])
	hex.Encode(b[19:23], v[8:10])
	hex.Encode(b[24:36], v[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

func parseID(s string) (id, error) {
	var v id
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return v, fmt.Errorf("%q is not an id: want 36 characters such as 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e", s)
	}
	hexed := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	raw, err := hex.DecodeString(hexed)
	if err != nil {
		return v, fmt.Errorf("%q is not an id: %w", s, err)
	}
	copy(v[:], raw)
	if v.String() != s {
		return v, fmt.Errorf("%q is not an id: want lower-case hexadecimal digits", s)
	}
	return v, nil
}

func newID(random io.Reader) (id, error) {
	var v id
	if _, err := io.ReadFull(random, v[:]); err != nil {
		return v, fmt.Errorf("read randomness for an id: %w", err)
	}
	v[6] = v[6]&0x0f | 0x40 // RFC 9562 version 4
	v[8] = v[8]&0x3f | 0x80
	return v, nil
}

// VolumeID names a volume in every cluster it ever lives in.
type VolumeID id

// ReplicaID names one copy of a volume.
type ReplicaID id

// NodeID names a node.
type NodeID id

// PoolID names a pool.
type PoolID id

// ClusterID names a cluster.
type ClusterID id

// NewVolumeID draws a volume id from random.
func NewVolumeID(random io.Reader) (VolumeID, error) {
	v, err := newID(random)
	return VolumeID(v), err
}

// ParseVolumeID reads the form that String prints.
func ParseVolumeID(s string) (VolumeID, error) { v, err := parseID(s); return VolumeID(v), err }

// String prints the id as a lower-case UUID.
func (v VolumeID) String() string { return id(v).String() }

// IsZero reports whether the id was never set.
func (v VolumeID) IsZero() bool { return v == VolumeID{} }

// MarshalText prints the id for JSON and flags.
func (v VolumeID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText printed.
func (v *VolumeID) UnmarshalText(b []byte) error {
	p, err := parseID(string(b))
	*v = VolumeID(p)
	return err
}

// NewReplicaID draws a replica id from random.
func NewReplicaID(random io.Reader) (ReplicaID, error) {
	v, err := newID(random)
	return ReplicaID(v), err
}

// ParseReplicaID reads the form that String prints.
func ParseReplicaID(s string) (ReplicaID, error) { v, err := parseID(s); return ReplicaID(v), err }

// String prints the id as a lower-case UUID.
func (v ReplicaID) String() string { return id(v).String() }

// IsZero reports whether the id was never set.
func (v ReplicaID) IsZero() bool { return v == ReplicaID{} }

// MarshalText prints the id for JSON and flags.
func (v ReplicaID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText printed.
func (v *ReplicaID) UnmarshalText(b []byte) error {
	p, err := parseID(string(b))
	*v = ReplicaID(p)
	return err
}

// NewNodeID draws a node id from random.
func NewNodeID(random io.Reader) (NodeID, error) { v, err := newID(random); return NodeID(v), err }

// ParseNodeID reads the form that String prints.
func ParseNodeID(s string) (NodeID, error) { v, err := parseID(s); return NodeID(v), err }

// String prints the id as a lower-case UUID.
func (v NodeID) String() string { return id(v).String() }

// IsZero reports whether the id was never set.
func (v NodeID) IsZero() bool { return v == NodeID{} }

// MarshalText prints the id for JSON and flags.
func (v NodeID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText printed.
func (v *NodeID) UnmarshalText(b []byte) error {
	p, err := parseID(string(b))
	*v = NodeID(p)
	return err
}

// NewPoolID draws a pool id from random.
func NewPoolID(random io.Reader) (PoolID, error) { v, err := newID(random); return PoolID(v), err }

// ParsePoolID reads the form that String prints.
func ParsePoolID(s string) (PoolID, error) { v, err := parseID(s); return PoolID(v), err }

// String prints the id as a lower-case UUID.
func (v PoolID) String() string { return id(v).String() }

// IsZero reports whether the id was never set.
func (v PoolID) IsZero() bool { return v == PoolID{} }

// MarshalText prints the id for JSON and flags.
func (v PoolID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText printed.
func (v *PoolID) UnmarshalText(b []byte) error {
	p, err := parseID(string(b))
	*v = PoolID(p)
	return err
}

// NewClusterID draws a cluster id from random.
func NewClusterID(random io.Reader) (ClusterID, error) {
	v, err := newID(random)
	return ClusterID(v), err
}

// ParseClusterID reads the form that String prints.
func ParseClusterID(s string) (ClusterID, error) { v, err := parseID(s); return ClusterID(v), err }

// String prints the id as a lower-case UUID.
func (v ClusterID) String() string { return id(v).String() }

// IsZero reports whether the id was never set.
func (v ClusterID) IsZero() bool { return v == ClusterID{} }

// MarshalText prints the id for JSON and flags.
func (v ClusterID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText printed.
func (v *ClusterID) UnmarshalText(b []byte) error {
	p, err := parseID(string(b))
	*v = ClusterID(p)
	return err
}
