package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// What a client may send per second on one connection that costs work and carries
// nothing. Who goes over is told ENHANCE_YOUR_CALM and cut. The figures leave room
// for honest bursts, and are far below what would cost anything. The bound on
// resets is Server.MaxResets.
const (
	maxPingsPerSecond     = 100
	maxSettingsPerSecond  = 20
	maxEmptyDataPerSecond = 1000 // without END_STREAM
	maxTinyDataPerSecond  = 20_000
	maxOtherPerSecond     = 1000 // PRIORITY, unknown types, frames for streams that are gone, malformed requests
	maxUpdatesPerSecond   = 50_000
)

// tinyData is how short DATA is that counts as tiny: of so much, most of the cost is
// that of the frame.
const tinyData = 16

type abuseKind int

const (
	abuseReset abuseKind = iota
	abusePing
	abuseSettings
	abuseEmptyData
	abuseTinyData
	abuseOther
	abuseUpdate
	abuseKinds
)

var abuseLimit = [abuseKinds]struct {
	n    int
	what string
}{
	abuseReset:     {0, "too many streams reset before they were answered"},
	abusePing:      {maxPingsPerSecond, "too many PING"},
	abuseSettings:  {maxSettingsPerSecond, "too many SETTINGS"},
	abuseEmptyData: {maxEmptyDataPerSecond, "too many empty DATA"},
	abuseTinyData:  {maxTinyDataPerSecond, "too many tiny DATA"},
	abuseOther:     {maxOtherPerSecond, "too many frames without effect"},
	abuseUpdate:    {maxUpdatesPerSecond, "too many WINDOW_UPDATE"},
}

// abuse counts what a client does too often. It belongs to the reader.
type abuse struct {
	maxResets int
	second    time.Time
	answered  int // conn.answered when second began
	n         [abuseKinds]int
}

func (a *abuse) count(k abuseKind) error {
	return a.over(k, abuseLimit[k].n, a.answered)
}

// reset counts a stream that was reset before it was answered. Whoever has many
// answered may change its mind as often. answered is how many were so far.
func (a *abuse) reset(answered int) error {
	return a.over(abuseReset, a.maxResets+answered-a.answered, answered)
}

func (a *abuse) over(k abuseKind, limit, answered int) error {
	a.n[k]++
	if a.n[k] <= limit {
		return nil
	}
	now := time.Now()
	if now.Sub(a.second) >= time.Second {
		a.second, a.answered = now, answered
		a.n = [abuseKinds]int{}
		a.n[k] = 1
		return nil
	}
	return connFailed(http2.ErrCodeEnhanceYourCalm, abuseLimit[k].what)
}
