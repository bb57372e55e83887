package hbone

import "sync"

// frameHeaderLen is the length of an HTTP/2 frame header (RFC 9113 section 4.1).
const frameHeaderLen = 9

// Buffer classes, in bytes with the frame header: whole TLS records, so that a
// full frame costs no half-empty record. Larger ones cost more than they save:
// 256 KiB took 1.70 CPU seconds for each GiB, 64 KiB 1.35, probably because a
// byte is still in the cache when the next step takes it up.
const (
	recordSize = 16 << 10
	classSmall = 0
	classLarge = 1
	numClasses = 2

	classUnpooled = -1 // the rare header block that needs more
)

var classSize = [numClasses]int{recordSize, 4 * recordSize}

var bufferPools [numClasses]sync.Pool

// buffer holds one DATA frame: room for its header, then payload. It is also
// the unit of the receive queue, which does not use the header's room.
type buffer struct {
	b     []byte // classSize bytes
	class int
	r, n  int     // payload is b[frameHeaderLen+r : frameHeaderLen+n]
	s     *Stream // sender, while queued for the wire
	end   bool    // END_STREAM
	next  *buffer // receive queue
}

func getBuffer(class int) *buffer {
	if b, _ := bufferPools[class].Get().(*buffer); b != nil {
		return b
	}
	return &buffer{b: make([]byte, classSize[class]), class: class}
}

func putBuffer(b *buffer) {
	if b.class == classUnpooled {
		return
	}
	b.r, b.n, b.s, b.end, b.next = 0, 0, nil, false, nil
	bufferPools[b.class].Put(b)
}

// payloadCap is how much payload fits a buffer of this class.
func payloadCap(class int) int { return classSize[class] - frameHeaderLen }

// space is where payload goes next.
func (b *buffer) space() []byte { return b.b[frameHeaderLen+b.n:] }

// payload is what is left to take out.
func (b *buffer) payload() []byte { return b.b[frameHeaderLen+b.r : frameHeaderLen+b.n] }

// frame is the whole DATA frame, header written.
func (b *buffer) frame(id uint32) []byte {
	flags := byte(0)
	if b.end {
		flags = flagEndStream
	}
	putFrameHeader(b.b, b.n, frameData, flags, id)
	return b.b[:frameHeaderLen+b.n]
}

// classFor is the smallest class that holds n bytes of payload, or the largest.
func classFor(n int) int {
	for class := range numClasses - 1 {
		if n <= payloadCap(class) {
			return class
		}
	}
	return classLarge
}

// queue is bytes received and not yet taken, in pooled buffers. Small pieces
// share a buffer, so that what is held stays close to what was received.
type queue struct {
	head, tail *buffer
	size       int
}

func (q *queue) push(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if q.tail == nil || len(q.tail.space()) == 0 {
			b := getBuffer(classFor(len(p)))
			if q.tail == nil {
				q.head = b
			} else {
				q.tail.next = b
			}
			q.tail = b
		}
		n := copy(q.tail.space(), p)
		q.tail.n += n
		p = p[n:]
	}
}

// pop copies into p and returns how much.
func (q *queue) pop(p []byte) (n int) {
	for q.head != nil && n < len(p) {
		m := copy(p[n:], q.head.payload())
		q.head.r += m
		n += m
		if q.head.r == q.head.n {
			q.dropHead()
		}
	}
	q.size -= n
	return n
}

// take removes and returns the first buffer, nil when empty. The caller puts it back.
func (q *queue) take() *buffer {
	b := q.head
	if b == nil {
		return nil
	}
	q.head = b.next
	if q.head == nil {
		q.tail = nil
	}
	b.next = nil
	q.size -= b.n - b.r
	return b
}

func (q *queue) dropHead() {
	b := q.head
	q.head = b.next
	if q.head == nil {
		q.tail = nil
	}
	putBuffer(b)
}

func (q *queue) clear() {
	for q.head != nil {
		q.dropHead()
	}
	q.size = 0
}

// slicePool is a sync.Pool of slices that allocates nothing for their headers:
// the boxes that a Pool wants are pooled, too.
type slicePool struct {
	size          int // capacity of a new one
	slices, boxes sync.Pool
}

// get returns a slice of length 0.
func (p *slicePool) get() []byte {
	box, _ := p.slices.Get().(*[]byte)
	if box == nil {
		return make([]byte, 0, p.size)
	}
	b := *box
	*box = nil
	p.boxes.Put(box)
	return b[:0]
}

func (p *slicePool) put(b []byte) {
	box, _ := p.boxes.Get().(*[]byte)
	if box == nil {
		box = new([]byte)
	}
	*box = b
	p.slices.Put(box)
}
