// Package kittest holds the tests that a guest kit of any language has to pass. A kit brings a guest that does what the
// name of its first tensor says, mostly returning what it was given:
//
//	emit            adds 3 to the counter "known" and 1 to "unknown", reports the features "bright" 0.5 and NaN, logs
//	fail            answers with an input error, "no photo"
//	break           answers with a guest error, "lost"
//	panic           ends in the language's way, with "so be it" as the reason
//	deep, spin      recurses, loops without end
//	hoard           allocates without end
//	large           wants to return a tensor that does not fit into memory or is beyond the contract: a guest error
//	twice           returns a tensor "x" twice: a guest error
//	short           returns fewer BYTES elements than the shape says: a guest error
//	configuration   returns its configuration as one BYTES element of shape [1]
//	any other       returns the tensors as they came
//
// and refuses the configuration "refuse me". The tests run it in wasm/host as an agent does, and in a bare runtime that
// hands it what the host would never send: lists and batches that are cut off or damaged, which it must tell from sound
// ones exactly as package abi does.
//
// Only tests import the package. Its functions end the test that calls them; they block while guests are built, compiled
// and run.
package kittest
