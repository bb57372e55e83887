package h2

import "sync"

// buffer is memory that all connections share by way of pools. Sizes are powers of
// four times 1 KiB.
type buffer struct{ b []byte }

const smallestBuffer = 1 << 10

var buffers [6]sync.Pool // 1, 4, 16, 64, 256 KiB, 1 MiB

func bufferClass(size int) int {
	class := 0
	for have := smallestBuffer; have < size; have *= 4 {
		class++
	}
	return class
}

// getBuffer returns a buffer of at least size bytes.
func getBuffer(size int) *buffer {
	class := bufferClass(size)
	if class >= len(buffers) {
		return &buffer{make([]byte, size)}
	}
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, smallestBuffer<<(2*class))}
}

// putBuffer gives back what getBuffer returned. nil is nothing.
func putBuffer(b *buffer) {
	if b == nil {
		return
	}
	if class := bufferClass(len(b.b)); class < len(buffers) {
		buffers[class].Put(b)
	}
}
