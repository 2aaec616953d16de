// Package modelrepository serves the models of a folder in Triton's layout, without a fleet.
//
// The folder is read into values (which models there are, which versions, what their files look like), these are
// compared with what was last tried, and what differs is loaded or unloaded. A load reads the configuration, completes
// it from the model file and checks both before any runtime sees them, asks for admission (which may mean a trial in a
// process of its own), opens the instances, warms them up, and only then puts all versions into the serving table in one step. A
// load makes all that the configuration asks for, or it leaves what served as it was and says why in the index.
//
// The highest version answers requests that name none, the others those that name them. An ensemble calls its models
// through the table, so that they are counted and bounded as for any other client; it is out of service while one of
// them is, and comes back with it.
//
// In mode None everything is loaded by Start. In mode Poll, Run looks for changes; a file that is still being copied is
// not loaded, since what differs must look the same in two looks. In mode Explicit, Load and Unload say what is loaded.
//
// All methods are safe for concurrent use. One load or unload happens at a time and others wait for it until their
// context ends; Index never waits.
package modelrepository
