package demo

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

func (d *demo) certificateRotates(ctx context.Context) error {
	d.Step("Certificates rotate under an open connection")
	stream, err := openTicks(ctx, testbed.HTTPFrom(d.Client.NS), url(d.ServerB.V4, testbed.AppPort))
	if err != nil {
		d.Check(false, "a stream opens", "%s", brief(err))
		return ctx.Err()
	}
	defer stream.Close()
	if err := stream.advance(ctx, 4); err != nil {
		d.Check(false, "a stream flows", "%s", brief(err))
		return ctx.Err()
	}
	before := stream.last.Load()
	if _, err := d.rotateOne(ctx, d.agentA, d.Client.Identity()); err != nil {
		return err
	}
	fresh, err := d.rotateOne(ctx, d.agentB, d.ServerB.Identity())
	if err != nil {
		return err
	}
	seen, err := presented(ctx, d.NodeA.NS, netip.AddrPortFrom(d.ServerB.V4, evidence.HBONEPort))
	if err != nil {
		d.Check(false, "new tunnels are shown the new one", "%s", brief(err))
	} else {
		d.Check(seen == fresh, "new tunnels are shown the new one", "server-b:%d presents serial %s", evidence.HBONEPort, short(seen))
	}
	token := d.secret()
	got, err := ask(ctx, d.Client.NS, url(d.ServerB.V6, testbed.AppPort), token)
	d.Check(err == nil && got.Echo == token, "new connections work", "%s", refusal(got, err))

	err = stream.advance(ctx, 8)
	after, conn := stream.last.Load(), stream.conn.Load()
	if closed := stream.Close(); err == nil {
		err = closed
	}
	if err != nil {
		d.Check(false, "the open stream never noticed", "%s", brief(err))
	} else {
		d.Check(true, "the open stream never noticed", "connection %d of the server: tick %d before, %d after, none missing", conn, before, after)
	}
	return ctx.Err()
}

// rotateOne returns the serial number of the new certificate.
func (d *demo) rotateOne(ctx context.Context, a *testbed.Agent, id string) (string, error) {
	old, err := a.Serial(ctx, id)
	if err != nil {
		return "", err
	}
	d.Does("%s: POST %s/certificates/rotate?id=%s", a.Node.Name, testbed.AdminURL, id)
	if err := a.Rotate(ctx, id); err != nil {
		d.Check(false, "a new certificate is in use", "%s", brief(err))
		return "", ctx.Err()
	}
	fresh, err := a.Serial(ctx, id)
	if err != nil {
		return "", err
	}
	d.Check(fresh != old, "a new certificate is in use", "serial %s → %s", short(old), short(fresh))
	return fresh, nil
}

// presented is the serial number of the certificate that a server shows. The
// handshake goes no further: whoever asks has none to show in return.
func presented(ctx context.Context, from *lab.Namespace, to netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	raw, err := from.Dial(ctx, new(net.Dialer), "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{
		// Who it is does not matter here; which certificate it shows does.
		InsecureSkipVerify: true,
		NextProtos:         []string{"h2"},
		MinVersion:         tls.VersionTLS13,
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", c.ConnectionState().PeerCertificates[0].SerialNumber), nil
}

// short keeps the end of a serial number: the start is where they look alike.
func short(serial string) string {
	if len(serial) <= 12 {
		return serial
	}
	return "…" + serial[len(serial)-12:]
}
