// Package version holds the one integer that nodes and managers compare.
//
// It rises when a message gains a meaning that the other side must know of. One step apart in either direction always
// works; further apart the manager says so and the node goes on serving what it has.
package version

import "fmt"

// Current is the protocol that this build speaks.
//
//	1  2026-11-25  the first: enrol, renew, watch, report, deliver
const Current = 1

// Compatible returns nil when the two can talk, or a sentence that says which side must be upgraded.
func Compatible(manager, node uint32) error {
	switch {
	case node == 0:
		return fmt.Errorf("the node names no protocol version")
	case node+1 < manager:
		return fmt.Errorf("the node speaks protocol %d and the manager %d: upgrade the node's agent", node, manager)
	case manager+1 < node:
		return fmt.Errorf("the node speaks protocol %d and the manager %d: upgrade the manager", node, manager)
	}
	return nil
}

// Build is the version of this build, set by the linker; "dev" when it was built without.
var Build = "dev"
