// Package api answers operators: it is the manager's side of dhow.fleet.v1.
//
// A call that changes something goes through here in one order: each resource is validated by itself, all of them
// against what exists and against each other, and then the store makes all changes in one transaction. Applies and
// deletes take turns, so that what was checked is still so when it is stored. Nothing is decided about nodes here:
// loops elsewhere see the change in the store and act on it.
//
// Watch sends what is there, says that the picture is whole, and then sends changes as the store tells of them. It
// keeps no queue for a watcher: it looks again from where it was, so that a slow watcher skips states between and
// never the last one. A watcher that does not take a message in time, or falls behind what the store remembers, is
// cut with the reason and watches anew.
//
// Who may call is not decided here but by the rules of Routes, which fleet/access enforces. Errors have a connect code
// and a sentence that says what to do; what went wrong inside is logged and not told.
package api
