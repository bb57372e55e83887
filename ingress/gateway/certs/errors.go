package certs

// Reason is what is wrong with an object that should hold certificates. Gateway
// API has one reason per place that refers to it (InvalidCertificateRef,
// InvalidClientCertificateRef, InvalidCACertificateRef), which the caller knows;
// this one tells the cases apart.
type Reason string

// The reasons of an Error.
const (
	NotFound             Reason = "NotFound"             // there is no such object
	WrongType            Reason = "WrongType"            // a Secret that does not hold a certificate
	MissingKey           Reason = "MissingKey"           // tls.crt, tls.key or ca.crt is absent or empty
	MalformedCertificate Reason = "MalformedCertificate" // not PEM, or not X.509
	MalformedKey         Reason = "MalformedKey"         // not PEM, encrypted, or of no kind that TLS has
	KeyMismatch          Reason = "KeyMismatch"          // the key is not that of the certificate
	WeakKey              Reason = "WeakKey"              // RSA below 2048 bits
	Expired              Reason = "Expired"              // NotAfter has passed
	NotYetValid          Reason = "NotYetValid"          // NotBefore is to come
)

// Error says why an object cannot be used, for the message of a condition.
type Error struct {
	Reason  Reason
	Message string
}

func (e *Error) Error() string { return e.Message }
