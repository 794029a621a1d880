package host

import "unsafe"

// Buffer returns n zeroed bytes that start at a multiple of Align.
func Buffer(n int) []byte {
	b := make([]byte, n+Align)
	skip := (Align - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align)) % Align
	return b[skip : skip+n : skip+n]
}

// Aligned reports whether b starts at a multiple of Align. An empty b does.
func Aligned(b []byte) bool {
	return len(b) == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0
}
