// Package runner answers requests with a model of a repository, as the model's configuration describes it: with the
// tensors that it lists, their reshapes and the largest batch that it allows.
//
// A Network runs an ONNX model, a Module a WASM module. Both are serving.Runners: safe for concurrent use, blocking for
// the computation, keeping nothing of a request. What does not fit the configuration is an *inference.InputError where
// the request is at fault, and otherwise an error that says what the model did.
package runner
