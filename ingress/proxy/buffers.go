package proxy

import "sync"

// What is copied passes through a large buffer; what is only waited for, through a
// small one: most tunnels and event streams are silent most of the time.
const (
	copyBuffer  = 32 << 10
	smallBuffer = 2 << 10
)

var (
	buffers      = sync.Pool{New: func() any { return new([copyBuffer]byte) }}
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
)

// copier is the buffer of one direction of copying. The zero value holds none.
type copier struct {
	large *[copyBuffer]byte
	small *[smallBuffer]byte
}

// buffer returns one for the next read, which is large if the last one, of n bytes,
// filled what it had.
func (c *copier) buffer(n int) []byte {
	if n >= smallBuffer {
		if c.large == nil {
			c.free()
			c.large = buffers.Get().(*[copyBuffer]byte)
		}
		return c.large[:]
	}
	if c.small == nil {
		c.free()
		c.small = smallBuffers.Get().(*[smallBuffer]byte)
	}
	return c.small[:]
}

// free gives the buffer back.
func (c *copier) free() {
	if c.large != nil {
		buffers.Put(c.large)
	}
	if c.small != nil {
		smallBuffers.Put(c.small)
	}
	*c = copier{}
}
