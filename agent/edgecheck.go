package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/adit-mesh/adit/ingress/file"
)

// checkGateways reads the directory of Gateway API's objects, and reports what is
// wrong with it: what cannot be read, and each condition that is not as it should
// be. What is merely of no use here is logged.
func checkGateways(cfg Config, log *slog.Logger) error {
	src, err := file.New(file.Config{Dir: cfg.Ingress.Config, Gateway: cfg.Ingress.options(cfg.NodeName, nil)})
	if err == nil {
		err = src.Check()
	}
	if err != nil {
		return &ConfigError{Err: fmt.Errorf("ingress.config: %w", err)}
	}
	var wrong []error
	for _, p := range src.Problems() {
		if p.Harmless {
			log.Warn(p.String())
			continue
		}
		wrong = append(wrong, errors.New(p.String()))
	}
	for _, o := range src.Statuses() {
		for _, c := range badConditions(o) {
			wrong = append(wrong, errors.New(c.String()))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &ConfigError{Err: fmt.Errorf("ingress.config:\n%w", errors.Join(wrong...))}
}
