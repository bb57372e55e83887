package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// rootSetVersion is that of the encoding. A newer one is refused and not
// replaced: an older replica must not undo what a newer one stores.
const rootSetVersion = 1

type rootSetJSON struct {
	Version int        `json:"version"`
	Roots   []rootJSON `json:"roots"`
}

type rootJSON struct {
	State       RootState `json:"state"`
	Since       time.Time `json:"since"`
	MaxTTL      string    `json:"maxTTL,omitempty"`
	Certificate string    `json:"certificate"`
	Key         string    `json:"key,omitempty"`
}

// Encode returns the set with its private keys, as JSON.
func (s *RootSet) Encode() ([]byte, error) {
	doc := rootSetJSON{Version: rootSetVersion}
	for _, r := range s.roots {
		j := rootJSON{State: r.State, Since: r.Since,
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw}))}
		if r.MaxTTL != 0 {
			j.MaxTTL = r.MaxTTL.String()
		}
		if r.issuer != nil {
			der, err := x509.MarshalPKCS8PrivateKey(r.issuer.key)
			if err != nil {
				return nil, err
			}
			j.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		}
		doc.Roots = append(doc.Roots, j)
	}
	return json.MarshalIndent(doc, "", "  ")
}

// ParseRootSet reads what Encode wrote. It accepts nothing else: whoever holds
// a set that cannot be read leaves it as it is.
func ParseRootSet(td spiffeid.TrustDomain, data []byte) (*RootSet, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var doc rootSetJSON
	err := dec.Decode(&doc)
	switch {
	case err != nil && doc.Version > rootSetVersion, err == nil && doc.Version != rootSetVersion:
		return nil, fmt.Errorf("roots are of version %d, known is %d; is a newer adit ca running?", doc.Version, rootSetVersion)
	case err != nil:
		return nil, fmt.Errorf("roots: %w", err)
	case dec.More():
		return nil, errors.New("roots: something follows the document")
	}
	s := &RootSet{trustDomain: td}
	for i, j := range doc.Roots {
		r, err := j.root()
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", i+1, err)
		}
		s.roots = append(s.roots, r)
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	return s, nil
}

func (j rootJSON) root() (Root, error) {
	r := Root{State: j.State, Since: j.Since.UTC()}
	if j.MaxTTL != "" {
		ttl, err := time.ParseDuration(j.MaxTTL)
		if err != nil {
			return r, err
		}
		r.MaxTTL = ttl
	}
	if j.Key != "" {
		issuer, err := decodeRoot([]byte(j.Certificate + j.Key))
		if err != nil {
			return r, err
		}
		r.cert, r.issuer = issuer.cert, issuer
		return r, nil
	}
	block, rest := pem.Decode([]byte(j.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return r, errors.New("want one certificate in PEM")
	}
	var err error
	r.cert, err = x509.ParseCertificate(block.Bytes)
	return r, err
}
