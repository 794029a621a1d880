// Package daemon is a node: it makes a cluster or joins one, and runs and watches over the
// node's processes.
//
// [Node] is the process that people start. It starts the others, of the same program, and
// starts them again when they end: the keeper (package keeper), which holds what devices
// are made of; data ([Data]), which does the I/O (package node); and control ([Control]):
// etcd, the API, and the reconcilers, one of which leads. None of them ends with another.
// When Node itself is killed they go on, and the next Node takes them over by their process
// ids. When it is told to end, data ends first, so that the cluster hears of it, then
// control, and the keeper if it holds nothing.
//
// Everything is below two directories, so that several nodes can be on one machine. In the
// data directory:
//
//	trust/         its certificate and key (trust.Wallet)
//	etcd/          its member of the embedded etcd, if it has one (member.Agent)
//	endpoints      URLs of etcd's members, one a line, as they were known last
//	dumps/         dumps of the metadata, named for their times
//	joining        the id with which it is joining, until it has
//	founding.pem   the authority of a cluster that this node is making, until it is in etcd
//	restore.dump   a dump that control is to begin a cluster's metadata with
//
// In the run directory: node.yaml, the config of the other processes; <process>.pid;
// keeper.sock; api.sock, at which root needs no token; debug.sock, with the metrics and
// debug pages of the data process.
package daemon
