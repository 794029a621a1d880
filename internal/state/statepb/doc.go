// Package statepb has the messages that the cluster's state keeps and the API does not
// show as they are. They are stored: fields are added, never changed.
package statepb
