package gateway

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// optionDomain is that of the keys of a listener's tls.options that are ours.
// Those of other domains are other controllers'.
const optionDomain = "adit-mesh.github.io/"

// The keys of a listener's tls.options.
const (
	// OptionHTTP3 is "on" (the default) or "off": whether the port is mirrored
	// for HTTP/3.
	OptionHTTP3 = optionDomain + "http3"
	// OptionHTTP3Port is the port that alt-svc names, if it is not the listener's.
	OptionHTTP3Port = optionDomain + "http3-port"
	// OptionZeroRTT is "on" or "off" (the default): whether HTTP/3 takes early
	// data, for safe methods.
	OptionZeroRTT = optionDomain + "zero-rtt"
	// OptionMinTLSVersion is "1.2" (the default) or "1.3".
	OptionMinTLSVersion = optionDomain + "min-tls-version"
)

// quicOptions are what a listener says of the mirror of its port, which it shares
// with every other listener of the port. The zero value says nothing.
type quicOptions struct {
	http3, zeroRTT string
	port           uint16
	minTLS         uint16 // of the listener alone
	// settled says that whoever comes from now on may agree, and no more.
	settled bool
}

// settle ends what an owner of listeners has to say about a port: what it left
// open is as it is by default. Another owner, of another namespace perhaps, shall
// not turn on early data for it, or send its clients to another port.
func (q *quicOptions) settle() {
	q.http3, q.zeroRTT, q.settled = cmp.Or(q.http3, "on"), cmp.Or(q.zeroRTT, "off"), true
}

func (l *listener) readTLSOptions() {
	for _, key := range slices.Sorted(maps.Keys(l.spec.TLS.Options)) {
		if !strings.HasPrefix(string(key), optionDomain) {
			continue
		}
		if err := l.quic.set(string(key), string(l.spec.TLS.Options[key])); err != nil {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("tls.options: %v", err))
		}
	}
}

func (q *quicOptions) set(key, value string) error {
	switch key {
	case OptionHTTP3, OptionZeroRTT:
		if value != "on" && value != "off" {
			return fmt.Errorf("%s is %q, which is neither on nor off", key, value)
		}
		if key == OptionHTTP3 {
			q.http3 = value
		} else {
			q.zeroRTT = value
		}
	case OptionHTTP3Port:
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("%s is %q, which is not a port between 1 and 65535", key, value)
		}
		q.port = uint16(port)
	case OptionMinTLSVersion:
		switch value {
		case "1.2":
			q.minTLS = tls.VersionTLS12
		case "1.3":
			q.minTLS = tls.VersionTLS13
		default:
			return fmt.Errorf("%s is %q, which is neither 1.2 nor 1.3", key, value)
		}
	default:
		return fmt.Errorf("there is no %s: the options are %s", key,
			strings.Join([]string{OptionHTTP3, OptionHTTP3Port, OptionZeroRTT, OptionMinTLSVersion}, ", "))
	}
	return nil
}

// agree takes over what a listener of the port says into the options of the whole
// port, or says what another one has said otherwise before.
func (q *quicOptions) agree(said quicOptions) error {
	differs := func(key, have, want string) error {
		return fmt.Errorf("%s is %q, but a listener with precedence on the same port says %q", key, want, have)
	}
	switch {
	case q.http3 != "" && said.http3 != "" && q.http3 != said.http3:
		return differs(OptionHTTP3, q.http3, said.http3)
	case q.zeroRTT != "" && said.zeroRTT != "" && q.zeroRTT != said.zeroRTT:
		return differs(OptionZeroRTT, q.zeroRTT, said.zeroRTT)
	case q.port == 0 && q.settled && said.port != 0:
		return fmt.Errorf("%s is %d, but of the listeners with precedence on the same port none says so", OptionHTTP3Port, said.port)
	case q.port != 0 && said.port != 0 && q.port != said.port:
		return differs(OptionHTTP3Port, strconv.Itoa(int(q.port)), strconv.Itoa(int(said.port)))
	}
	q.http3 = cmp.Or(q.http3, said.http3)
	q.zeroRTT = cmp.Or(q.zeroRTT, said.zeroRTT)
	q.port = cmp.Or(q.port, said.port)
	return nil
}
