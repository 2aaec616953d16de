// Package arch holds Dhow's architecture rules as tests. Each rule says why it exists where it fails, so that whoever
// breaks one learns what it protects and can decide to change the rule instead.
package arch
