// Package csi is the Container Storage Interface in front of the API: Identity,
// Controller, GroupController, SnapshotMetadata and Node on one unix socket, so that
// Kubernetes, Nomad and others give containers Holdfast volumes.
//
// It has no policy and keeps no list of its own: what exists, and where it is attached,
// is asked of the API each time, and what is mounted of the kernel. So every call can be
// repeated, and a restart changes no answer. Two calls about one volume, in one process,
// are done one after the other.
//
// A volume has one live owner whatever the orchestrator believes. ControllerPublishVolume
// makes the attachment, and the attachment is the claim: a second node is refused with
// FailedPrecondition until the first has let go, or its lease has ended, after which the
// new owner's epoch fences it.
//
// A volume that can be reached from one node can be reached from all: topology (node,
// zone, region) narrows where replicas are put, never where a volume may be used.
//
// Secrets are neither used nor logged.
package csi
