// Package bundle says what a bundle is: the unit that is published, rolled out and rolled back, in one folder.
//
//	bundle.yaml     the Spec: name, version, variants, inputs and outputs, WASM steps, budgets
//	model.onnx      one or more variants of the model, with external data beside them where they have any
//	pre.wasm, ...   WASM modules that run before and after the model, optional
//	labels.txt      handed to the WASM modules as their configuration, optional
//	golden/         sample requests with the answers that the model must give, optional
//	anything else   travels along: model card, licence, notices
//
// ParseSpec reads bundle.yaml, Load checks a whole folder, Manifest turns a loaded bundle into an OCI image manifest in
// the ModelPack form (one layer a file), FilesOf reads such a manifest back. What FilesOf returns is safe to write under
// an empty folder: no path leaves it, none collides with another.
//
// The package is pure: folders come as fs.FS, and nothing here starts a goroutine or looks at a clock. Load reads model
// files in small pieces and holds none of them in memory; golden samples are read whole, within MaxGoldenBytes. Every
// count and size is bounded, and every refusal names the file (and the line of bundle.yaml) that it is about. Values
// returned are the caller's; functions are safe for concurrent use.
package bundle
