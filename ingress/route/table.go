package route

// Table is the rules of one listener, indexed. It is immutable; the zero value
// matches nothing.
type Table[R any] struct {
	_ R
}
