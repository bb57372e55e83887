// Package agent wires the node agent together: it reads the configuration,
// starts the parts in order, follows the local pods, answers the operator, and
// stops the parts in the reverse order.
//
// # Limitations
//
// Local pods come from the mesh file. An upgrade of the agent ends live
// connections when its drain timeout has passed.
package agent
