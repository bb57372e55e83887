package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// callerKey is the context key of the user at the other end of a connection to
// the admin port, a [caller].
type callerKey struct{}

type caller struct {
	uid uint32
	err error // why it is not known
}

// withCaller notes who made a connection: a loopback address alone is within
// reach of every process in the node's network namespace, of any user.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	uid, err := socketOwner(addrPortOf(c.RemoteAddr()), addrPortOf(c.LocalAddr()))
	return context.WithValue(ctx, callerKey{}, caller{uid, err})
}

// mayCommand says why the caller of a request may not use the admin port, nil if
// he may: root, and the agent's own user.
func mayCommand(ctx context.Context) error {
	who, ok := ctx.Value(callerKey{}).(caller)
	switch {
	case !ok:
		return nil // not over a socket
	case who.err != nil:
		return fmt.Errorf("it is not known who asks: %w", who.err)
	case who.uid != 0 && int(who.uid) != os.Geteuid():
		return fmt.Errorf("user %d may not use this interface; ask as root", who.uid)
	}
	return nil
}

func addrPortOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// socketOwner is the user that made the TCP socket local, connected to remote, in
// this network namespace. See proc_net(5).
func socketOwner(local, remote netip.AddrPort) (uint32, error) {
	// A socket of an IPv6 listener may talk IPv4, and is then in the other table.
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + table)
		if err != nil {
			continue // no such family
		}
		uid, found, err := findSocket(bufio.NewScanner(f), local, remote)
		f.Close()
		if found || err != nil {
			return uid, err
		}
	}
	return 0, fmt.Errorf("no socket of this network namespace is %s", local)
}

func findSocket(lines *bufio.Scanner, local, remote netip.AddrPort) (uid uint32, found bool, err error) {
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || procAddr(fields[1]) != local || procAddr(fields[2]) != remote {
			continue
		}
		n, err := strconv.ParseUint(fields[7], 10, 32)
		return uint32(n), err == nil, err
	}
	return 0, false, lines.Err()
}

// procAddr reads an address such as 0100007F:1F90: the words of the address in
// the machine's byte order, the port in the network's.
func procAddr(s string) netip.AddrPort {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n))
}
