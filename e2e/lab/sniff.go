package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sniffLimit bounds what one Sniffer keeps, in bytes of frames. Later frames are counted, not kept.
const sniffLimit = 64 << 20

// Frame is one Ethernet frame as it crossed a link. Checksums may be unfinished and segments larger than the
// link's MTU: virtual links leave both to the receiver.
type Frame struct {
	Time time.Time
	Data []byte
}

// Sniffer records every frame, both directions, that crosses one link.
type Sniffer struct {
	file *os.File
	done chan struct{}
	keep func(Frame) bool // false: not worth recording

	mu      sync.Mutex // guards the fields below
	frames  []Frame
	size    int
	dropped int
	grown   chan struct{}
}

// Sniff starts recording on a link. The caller or Lab.Close closes it.
func (n *Namespace) Sniff(link string) (*Sniffer, error) {
	return n.SniffIf(link, func(Frame) bool { return true })
}

// SniffIf records only the frames that keep accepts, so that it can watch a busy link for long. keep runs on
// the sniffer's goroutine and must not hold on to the frame.
func (n *Namespace) SniffIf(link string, keep func(Frame) bool) (*Sniffer, error) {
	fd, err := n.packetSocket(link)
	if err != nil {
		return nil, fmt.Errorf("lab: sniff %s/%s: %w", n.name, link, err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	s := &Sniffer{
		file:  os.NewFile(uintptr(fd), "sniff "+link),
		done:  make(chan struct{}),
		keep:  keep,
		grown: make(chan struct{}),
	}
	n.lab.mu.Lock()
	closed := n.lab.closed
	n.lab.sniffs = append(n.lab.sniffs, s)
	n.lab.mu.Unlock()
	go s.record()
	if closed {
		_ = s.Close()
		return nil, errors.New("lab: closed")
	}
	return s, nil
}

// packetSocket opens a non-blocking AF_PACKET socket bound to a link.
func (n *Namespace) packetSocket(link string) (int, error) {
	li, err := n.link(link)
	if err != nil {
		return -1, err
	}
	var fd int
	err = n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: li.Attrs().Index}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Inject sends one Ethernet frame out of a link, for packets that no honest stack would send.
func (n *Namespace) Inject(link string, frame []byte) error {
	fd, err := n.packetSocket(link)
	if err != nil {
		return fmt.Errorf("lab: inject on %s/%s: %w", n.name, link, err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, frame)
	return err
}

// HardwareAddr is the MAC address of a link.
func (n *Namespace) HardwareAddr(link string) (net.HardwareAddr, error) {
	li, err := n.link(link)
	if err != nil {
		return nil, err
	}
	return li.Attrs().HardwareAddr, nil
}

func (s *Sniffer) record() {
	defer close(s.done)
	buf := make([]byte, 1<<17)
	for {
		nr, err := s.file.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // the link went down; it may come up again
		}
		if err != nil {
			return
		}
		f := Frame{Time: time.Now(), Data: buf[:nr]}
		if !s.keep(f) {
			continue
		}
		s.mu.Lock()
		if s.size+nr > sniffLimit {
			s.dropped++
		} else {
			f.Data = append([]byte(nil), f.Data...)
			s.frames = append(s.frames, f)
			s.size += nr
			close(s.grown)
			s.grown = make(chan struct{})
		}
		s.mu.Unlock()
	}
}

// Frames returns what has been recorded so far, oldest first.
func (s *Sniffer) Frames() []Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames[:len(s.frames):len(s.frames)]
}

// Dropped counts frames that were seen after the recording was full.
func (s *Sniffer) Dropped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Lost counts frames that the kernel threw away since the last call because the sniffer did not keep up.
// What a sniffer did not see proves something only while this is 0.
func (s *Sniffer) Lost() (int, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	var statsErr error
	if err := raw.Control(func(fd uintptr) {
		stats, statsErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil {
		return 0, err
	}
	if statsErr != nil {
		return 0, fmt.Errorf("lab: packet statistics: %w", statsErr)
	}
	return int(stats.Drops), nil
}

// WaitFor returns the first recorded frame that match accepts, waiting for it until the timeout.
func (s *Sniffer) WaitFor(timeout time.Duration, match func(Frame) bool) (Frame, bool) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for seen := 0; ; {
		s.mu.Lock()
		frames, grown := s.frames, s.grown
		s.mu.Unlock()
		for ; seen < len(frames); seen++ {
			if match(frames[seen]) {
				return frames[seen], true
			}
		}
		select {
		case <-grown:
		case <-s.done:
			return Frame{}, false
		case <-deadline.C:
			return Frame{}, false
		}
	}
}

// Close stops recording; the frames stay readable. It is idempotent.
func (s *Sniffer) Close() error {
	err := s.file.Close()
	<-s.done
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// WritePcap writes the recording as a pcap file (Ethernet link type), for tcpdump and Wireshark.
func (s *Sniffer) WritePcap(w io.Writer) error {
	header := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	header = binary.LittleEndian.AppendUint16(header, 2)
	header = binary.LittleEndian.AppendUint16(header, 4)
	header = append(header, make([]byte, 8)...)
	header = binary.LittleEndian.AppendUint32(header, 1<<17)
	header = binary.LittleEndian.AppendUint32(header, 1) // LINKTYPE_ETHERNET
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, f := range s.Frames() {
		rec := binary.LittleEndian.AppendUint32(nil, uint32(f.Time.Unix()))
		rec = binary.LittleEndian.AppendUint32(rec, uint32(f.Time.Nanosecond()/1000))
		rec = binary.LittleEndian.AppendUint32(rec, uint32(len(f.Data)))
		rec = binary.LittleEndian.AppendUint32(rec, uint32(len(f.Data)))
		if _, err := w.Write(append(rec, f.Data...)); err != nil {
			return err
		}
	}
	return nil
}
