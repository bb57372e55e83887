package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"k8s.io/client-go/informers"
)

const (
	maxUDP = 1232 // octets: what passes every path without fragments
	ttl    = 5    // seconds, as in Kubernetes' DNS specification
)

// serveDNS answers once everything has been listed, so that a name which exists is never denied.
func serveDNS(ctx context.Context, watched informers.SharedInformerFactory) error {
	z := &zone{
		services:  watched.Core().V1().Services().Lister(),
		endpoints: watched.Discovery().V1().EndpointSlices().Lister(),
	}
	watched.Core().V1().Services().Informer()
	watched.Discovery().V1().EndpointSlices().Informer()
	watched.Start(ctx.Done())
	watched.WaitForCacheSync(ctx.Done())

	packets, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = packets.Close(); _ = streams.Close() })
	go serveStreams(streams, z)
	return servePackets(packets, z)
}

func servePackets(l net.PacketConn, z *zone) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := l.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer, ok := z.respond(buf[:n], maxUDP); ok {
			_, _ = l.WriteTo(answer, from)
		}
	}
}

func serveStreams(l net.Listener, z *zone) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serveStream(c, z)
	}
}

// serveStream speaks RFC 1035 section 4.2.2: each message after its length.
func serveStream(c net.Conn, z *zone) {
	defer c.Close()
	for {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		answer, ok := z.respond(query, 1<<16-1)
		if !ok {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// respond answers one query; ok is false for what is none.
func (z *zone) respond(query []byte, limit int) (answer []byte, ok bool) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil || header.Response {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	addrs, code := z.lookup(q.Name.String(), q.Type)
	answer, err = pack(header, q, addrs, code, false)
	if err == nil && len(answer) > limit {
		answer, err = pack(header, q, nil, code, true)
	}
	return answer, err == nil
}

func pack(header dnsmessage.Header, q dnsmessage.Question, addrs []netip.Addr, code dnsmessage.RCode, truncated bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: header.ID, Response: true, Authoritative: true, Truncated: truncated,
		RecursionDesired: header.RecursionDesired, RCode: code,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		var err error
		if a.Is4() {
			err = b.AResource(rh, dnsmessage.AResource{A: a.As4()})
		} else {
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}
