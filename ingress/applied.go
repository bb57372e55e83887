package ingress

// Applied is what became of a Config: what of it is served.
type Applied struct {
	// Failed are the sockets that could not be had, with the reason. What is not
	// named is open and serves the Config.
	Failed map[Bind]error
	// NoQUIC are the QUIC mirrors that could not be had.
	NoQUIC map[Bind]error
}
