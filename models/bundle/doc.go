// Package bundle says what a bundle is: the unit that is published, rolled out and rolled back, in one folder.
//
//	bundle.yaml     the Spec: name, version, variants, inputs and outputs, WASM steps, budgets
//	model.onnx      one or more variants of the model, with external data beside them where they have any
//	pre.wasm, ...   WASM modules that run before and after the model, or between models, optional
//	labels.txt      handed to the WASM modules as their configuration, optional
//	golden/         sample requests with the answers that the model must give, optional
//	anything else   travels along: model card, licence, notices
//
// A pipeline is either a mapping of pre and post, or a list of stages: models and modules that are connected by the names
// of their tensors (Stage, and package dataflow for what must fit together).
//
//	pipeline:
//	  - {name: prepare, module: pre.wasm, gives: [x]}                     # takes what clients send
//	  - {name: detect, model: det.onnx, outputs: {sigmoid_0.tmp_0: map}}  # takes x; its own name for the map is another
//	  - {name: cut, module: cut.wasm, takes: [photo, map], gives: [lines]}
//	  - {name: read, variant: true, inputs: {x: lines}}                   # the file that the variant names
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
