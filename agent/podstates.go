package agent

import "github.com/prometheus/client_golang/prometheus"

// podStates counts the local pods that are to be captured, by their state, and
// what the node's rules refused on their behalf.
type podStates struct{ a *Agent }

var podStatesDesc = prometheus.NewDesc("adit_pods", "Local pods that are to be captured, by state.", []string{"state"}, nil)

var spoofedDesc = prometheus.NewDesc("adit_probe_spoofed_packets_total",
	"Packets that were dropped on the node because they came from the address of kubelet's probes.", nil, nil)

// waitingState is that of a pod whose network namespace has not been found.
const waitingState = "waiting"

func (podStates) Describe(c chan<- *prometheus.Desc) {
	c <- podStatesDesc
	c <- spoofedDesc
}

func (s podStates) Collect(c chan<- prometheus.Metric) {
	// Every state is there from the start: a series that appears with its first
	// pod shows no increase.
	count := map[string]int{
		string(PodEnrolling): 0, string(PodServing): 0, string(PodRetrying): 0, string(PodDraining): 0, waitingState: 0,
	}
	for _, p := range s.a.pods.Status() {
		if p.State != PodReleased {
			count[string(p.State)]++
		}
	}
	if s.a.kube != nil && s.a.kube.enrol != nil {
		for _, p := range s.a.kube.enrol.Status() {
			if p.Wanted {
				count[waitingState]++
			}
		}
		if s.a.kube.host != nil {
			if n, err := s.a.kube.host.Spoofed(); err == nil {
				c <- prometheus.MustNewConstMetric(spoofedDesc, prometheus.CounterValue, float64(n))
			}
		}
	}
	for state, n := range count {
		c <- prometheus.MustNewConstMetric(podStatesDesc, prometheus.GaugeValue, float64(n), state)
	}
}
