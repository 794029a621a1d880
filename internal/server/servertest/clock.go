package servertest

import "time"

// Then is the moment at which the clock of golden tests stands.
var Then = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
