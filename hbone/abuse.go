package hbone

import (
	"time"

	"golang.org/x/net/http2"
)

// What a peer may send per second on one tunnel, over and above what carries
// data. A peer that goes over is told ENHANCE_YOUR_CALM and cut. The figures
// leave room for honest bursts (200 streams that end at once, many times a
// second) and are far below what costs us anything.
const (
	maxResetsPerSecond    = 2000 // of streams that had not been accepted
	maxPingsPerSecond     = 100
	maxSettingsPerSecond  = 20
	maxEmptyDataPerSecond = 1000 // without END_STREAM
	maxOtherPerSecond     = 1000 // PRIORITY, unknown types, frames for streams that are gone
	maxUpdatesPerSecond   = 50_000
	maxContinuations      = 16 // per header block
)

type abuseKind int

const (
	abuseReset abuseKind = iota
	abusePing
	abuseSettings
	abuseEmptyData
	abuseOther
	abuseUpdate
	abuseKinds
)

var abuseLimit = [abuseKinds]struct {
	n    int
	what string
}{
	abuseReset:     {maxResetsPerSecond, "too many RST_STREAM"},
	abusePing:      {maxPingsPerSecond, "too many PING"},
	abuseSettings:  {maxSettingsPerSecond, "too many SETTINGS"},
	abuseEmptyData: {maxEmptyDataPerSecond, "too many empty DATA"},
	abuseOther:     {maxOtherPerSecond, "too many frames without effect"},
	abuseUpdate:    {maxUpdatesPerSecond, "too many WINDOW_UPDATE"},
}

// abuse counts frames that cost us and carry nothing. It belongs to the reader.
type abuse struct {
	second time.Time
	n      [abuseKinds]int
}

func (a *abuse) count(k abuseKind) error {
	a.n[k]++
	if a.n[k] <= abuseLimit[k].n {
		return nil
	}
	now := time.Now()
	if now.Sub(a.second) >= time.Second {
		a.second = now
		a.n = [abuseKinds]int{}
		a.n[k] = 1
		return nil
	}
	return connError{http2.ErrCodeEnhanceYourCalm, abuseLimit[k].what}
}
