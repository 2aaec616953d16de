// Package skew lets the programs of the last release and those of this checkout work with each other: one version
// apart in either direction always works, since no fleet is updated in one moment. The file releases names what was
// released; test/skew/run builds the last of them and runs the tests.
package skew
