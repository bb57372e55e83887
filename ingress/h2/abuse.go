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
	maxPingsPerSecond     = 10_000 // gRPC measures each round trip while data comes
	maxSettingsPerSecond  = 100
	maxEmptyDataPerSecond = 1000    // without END_STREAM
	maxOtherPerSecond     = 1000    // PRIORITY, unknown types, malformed requests
	maxCheapPerSecond     = 200_000 // WINDOW_UPDATE, frames of streams that are gone
)

type abuseKind int

const (
	abuseReset abuseKind = iota
	abusePing
	abuseSettings
	abuseEmptyData
	abuseOther
	abuseCheap
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
	abuseOther:     {maxOtherPerSecond, "too many frames without effect"},
	abuseCheap:     {maxCheapPerSecond, "too many WINDOW_UPDATE, or frames of streams that are gone"},
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
