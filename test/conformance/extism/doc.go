// Package extism compares Dhow's host for Extism plug-ins with Extism's own: the plug-ins that its SDK is tested with
// give the same answers, and the memory functions do what its kernel's do. It holds tests alone, in a module of its own,
// since nothing of the product should depend on the SDK. The plug-ins and the kernel are read from the module cache.
package extism
