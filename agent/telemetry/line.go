package telemetry

import (
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/adit-mesh/adit/agent/mesh"
)

// line is the data of one access-log line.
type line struct {
	info           *Info
	time           time.Time
	duration       time.Duration
	sent, received int64
	err            error
	flag           Flag
}

var lineBuffers = sync.Pool{New: func() any { return new([]byte) }}

func (t *Telemetry) writeLine(l line) {
	if t.log == nil {
		return
	}
	buf := lineBuffers.Get().(*[]byte)
	*buf = l.append((*buf)[:0], t.json)
	t.log.write(*buf)
	lineBuffers.Put(buf)
}

func (l *line) append(b []byte, json bool) []byte {
	level, message := "info", "connection complete"
	if l.err != nil {
		level = "error"
	}
	if l.info.Source == nil && l.info.Destination == nil && l.err != nil {
		// Refused before anything was known of it.
		level, message = "warn", "connection failed"
	}

	f := fields{b: b, json: json}
	stamp := l.time.UTC()
	if json {
		f.b = append(f.b, `{"level":"`...)
		f.b = append(f.b, level...)
		f.b = append(f.b, `","time":"`...)
		f.b = stamp.AppendFormat(f.b, timeFormat)
		f.b = append(f.b, `","scope":"access","message":"`...)
		f.b = append(f.b, message...)
		f.b = append(f.b, '"')
	} else {
		f.b = stamp.AppendFormat(f.b, timeFormat)
		f.b = append(f.b, '\t')
		f.b = append(f.b, level...)
		f.b = append(f.b, "\taccess\t"...)
		f.b = append(f.b, message...)
		f.b = append(f.b, '\t')
	}
	l.appendFields(&f)
	if json {
		f.b = append(f.b, '}')
	}
	return append(f.b, '\n')
}

const timeFormat = "2006-01-02T15:04:05.000000Z"

// appendFields writes ztunnel's fields in its order. Unknown ones are left out.
func (l *line) appendFields(f *fields) {
	info := l.info
	// Over plain TCP nobody has proved who he is.
	identities := info.MutualTLS || info.Mode == "local"

	f.addr("src.addr", info.SourceAddr)
	source := endOf(info.Source)
	if b := info.SourceBaggage; b != nil && info.Source == nil {
		source = end{workload: b.WorkloadName, namespace: b.Namespace, cluster: b.Cluster}
	}
	f.str("src.workload", source.workload)
	f.str("src.namespace", source.namespace)
	if identities {
		f.str("src.identity", info.SourceID.String())
	}
	f.str("src.cluster", source.cluster)

	if info.HBONEAddr.IsValid() {
		f.addr("dst.addr", info.HBONEAddr)
		if info.Authority != "" {
			f.plain("dst.hbone_addr", info.Authority)
		} else {
			f.addr("dst.hbone_addr", info.DestinationAddr)
		}
	} else {
		f.addr("dst.addr", info.DestinationAddr)
	}
	if info.Service != nil {
		f.str("dst.service", info.Service.Hostname)
	}
	destination := endOf(info.Destination)
	f.str("dst.workload", destination.workload)
	f.str("dst.namespace", destination.namespace)
	if identities {
		f.str("dst.identity", info.DestinationID.String())
	}
	f.str("dst.cluster", destination.cluster)

	f.str("direction", info.Reporter.direction())
	sent, received := l.sent, l.received
	if info.Reporter == Destination {
		sent, received = received, sent
	}
	f.int("bytes_sent", sent)
	f.int("bytes_recv", received)
	f.milliseconds("duration", l.duration)
	if l.err != nil {
		f.str("error", l.err.Error())
	}
	if l.flag != FlagNone && l.flag != "" {
		f.str("response_flags", string(l.flag))
	}
}

// end names one end of a connection in the log: the pod, or failing that the
// service it is of.
type end struct{ workload, namespace, cluster string }

func endOf(w *mesh.Workload) end {
	if w == nil {
		return end{}
	}
	e := end{workload: w.Name, namespace: w.Namespace, cluster: w.ClusterID}
	if e.workload == "" {
		e.workload = w.CanonicalName
	}
	if e.cluster == "" {
		e.cluster = "Kubernetes"
	}
	return e
}

// fields appends key-value pairs, none of which allocates.
type fields struct {
	b     []byte
	json  bool
	count int
}

func (f *fields) key(k string) {
	switch {
	case f.json:
		f.b = append(f.b, ',', '"')
		f.b = append(f.b, k...)
		f.b = append(f.b, '"', ':')
	default:
		if f.count > 0 {
			f.b = append(f.b, ' ')
		}
		f.b = append(f.b, k...)
		f.b = append(f.b, '=')
	}
	f.count++
}

func (f *fields) str(k, v string) {
	if v == "" {
		return
	}
	f.key(k)
	if f.json {
		f.b = appendJSON(f.b, v)
	} else {
		f.b = strconv.AppendQuote(f.b, v)
	}
}

// plain is an unquoted string in text. One that could be taken for several
// fields is quoted all the same: an authority is the peer's choice.
func (f *fields) plain(k, v string) {
	for i := range len(v) {
		if c := v[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			f.str(k, v)
			return
		}
	}
	if f.json {
		f.str(k, v)
		return
	}
	f.key(k)
	f.b = append(f.b, v...)
}

func (f *fields) addr(k string, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	f.key(k)
	if f.json {
		f.b = append(f.b, '"')
	}
	f.b = a.AppendTo(f.b)
	if f.json {
		f.b = append(f.b, '"')
	}
}

func (f *fields) int(k string, v int64) {
	f.key(k)
	f.b = strconv.AppendInt(f.b, v, 10)
}

func (f *fields) milliseconds(k string, d time.Duration) {
	f.key(k)
	f.b = append(f.b, '"')
	f.b = strconv.AppendInt(f.b, d.Milliseconds(), 10)
	f.b = append(f.b, `ms"`...)
}

// appendJSON appends v as a JSON string. What is not UTF-8 is replaced.
func appendJSON(b []byte, v string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(v[i:])
			b = utf8.AppendRune(b, r) // RuneError for what is not UTF-8
			i += n
			continue
		}
		i++
	}
	return append(b, '"')
}
