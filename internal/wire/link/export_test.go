package link

// Waiting reports whether Transmit waits for something to send.
func Waiting(c *Conn) bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.parked && !c.out.lent && len(c.out.filling.items) == 0
}
