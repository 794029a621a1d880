// Package helm pins Helm, with which the chart is tested; it has nothing of its own.
package helm
