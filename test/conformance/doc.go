// Conformance holds a server against the Open Inference Protocol, version 2: REST, gRPC, and the extensions and older
// forms that its clients use.
//
//	go run ./test/conformance -url http://127.0.0.1:8000 [-grpc 127.0.0.1:8001] [-model NAME]... [-key KEY]
//
// It speaks to any server and knows none: what models there are it learns from the repository index or from -model, what
// they take and give from their metadata. For each model it makes a request out of small numbers that fits the metadata
// (-shape says what a dimension that varies must be where 1, 2, 32 and 224 do not fit), takes the answer as a reference,
// and then asks the same in every form that the server says it knows: flat and nested JSON, binary tensors, compressed
// bodies, gRPC with raw and with typed contents. The answers must agree with each other and with the metadata. With
// -fixture simple, a model that adds and subtracts (two INT32 inputs of shape [1,16], as the servers' own examples have
// it) must also give the right values. Requests that are wrong must be refused with a status in the 400s and
// {"error": "..."}, and the server must go on answering.
//
// Each check passes, fails, or is skipped with a reason: an extension that the server does not advertise, no model that
// the check could use. For a failed check, what was sent and what came back is printed. Nothing is changed in the server
// unless -control names a model, which is then unloaded and loaded. The exit status is 1 when a check failed and 2 when
// the program was called wrongly.
//
// Flow of data: main reads the flags, learn asks the server what it has, suite runs the checks one after the other, each
// with its own record of what it sent, and report prints the outcomes. Every request has a time limit and every answer a
// limit of size. The program imports nothing of a server's code.
package main
