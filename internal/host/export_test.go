package host

// Tiny gives o rings that are full all the time.
var Tiny = tiny
