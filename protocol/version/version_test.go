package version

import "testing"

func TestOneStepApartIsCompatible(t *testing.T) {
	for manager := uint32(1); manager < 6; manager++ {
		for node := uint32(0); node < 6; node++ {
			near := node > 0 && (node == manager || node+1 == manager || node == manager+1)
			if err := Compatible(manager, node); (err == nil) != near {
				t.Errorf("Compatible(%d, %d) = %v", manager, node, err)
			}
		}
	}
}
