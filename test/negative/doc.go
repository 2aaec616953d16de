// Package negative is the suite of what must not work: requests that are broken, hostile or not allowed, sent over REST
// and gRPC to the handlers that an agent serves, over real models in ONNX Runtime.
//
// A case is what is sent, byte for byte, the status that it must be answered with, and a fragment of the sentence. After
// each case the server has to be ready and to answer a good request exactly, and no answer may tell of the inside: no
// types or files of the source, addresses, paths of the machine, or keys. The package holds tests alone; every case
// uses the one server of its test, on a loopback port of its own.
package negative
