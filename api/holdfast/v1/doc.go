// Package holdfastv1 is version 1 of Holdfast's API: its objects, and the services that
// read and change them, over gRPC and over HTTP with JSON.
//
// It promises that what is here keeps its meaning: fields are added, never changed.
package holdfastv1
