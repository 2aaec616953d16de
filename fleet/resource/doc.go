// Package resource is what operators write and read: the YAML form of the fleet's resources, its rules and its text.
//
// Data flows one way in and one way out. Read turns a file of YAML documents into messages and refuses what it does
// not know, with the document, the line and the nearest name that it does know. Validate checks one resource by
// itself, World checks what resources say about each other, given what exists. YAML, JSON and Diff turn messages back
// into text; what YAML and JSON print is read back by Read as the same resource.
//
// The package is pure: no I/O, no clock, nothing kept. Every function may be called from any goroutine.
package resource
