// Package telemetry remembers what the agent answered, and adds it up for the fleet manager.
//
// Record copies an Observation into a bounded queue and returns at once; when the queue is full the observation is
// dropped and counted. One writer goroutine groups the queue into rows of telemetry.db, which is a ring bounded in
// bytes and age. Roll-up adds the rows since the last checkpoint to one aggregate and puts it into the outbox of
// state.db together with the new checkpoint in one transaction, so that a row is counted exactly once or, when
// telemetry.db itself is lost, not at all.
package telemetry
