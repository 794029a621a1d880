package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// RealClock is the machine's time since it booted, the time spent suspended
// included (CLOCK_BOOTTIME). The zero value is ready; any goroutine may use it.
//
// Leases need exactly this clock. CLOCK_MONOTONIC, which package time reads, stands
// still while the machine is suspended: an owner that slept for a minute would wake
// up believing in a lease that its replicas gave to somebody else half a minute ago.
// CLOCK_REALTIME jumps. Both machines' clocks may drift by what NTP slews, 500 parts
// per million; leases leave a margin for that.
//
// No clock of a virtual machine counts the time for which its hypervisor stopped it.
// Epochs fence the writes of a machine that was stopped that way.
type RealClock struct{}

// Now returns the time since boot.
func (RealClock) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the kernel has had this clock since 2.6.39
	}
	return time.Duration(ts.Nano())
}
