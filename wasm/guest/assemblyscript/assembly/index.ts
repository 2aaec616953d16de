// The kit for pre- and post-processing steps written in AssemblyScript: version 1 of Dhow's contract with a WASM guest.
//
//	import { handle, Datatype } from "../guest/assemblyscript/assembly/index"
//	export * from "../guest/assemblyscript/assembly/exports"
//
//	handle((request, response) => {
//	  const x = request.want("x", Datatype.FP32, [-1])
//	  if (!x) return response.inputError(request.problem)
//	  const values = x.values<f32>(), y = response.like<f32>("y", x)
//	  if (!y) return
//	  for (let i = 0; i < values.length; i++) y[i] = 2 * values[i]
//	})
//
// Data flow: the host writes a tensor list into room that the kit gives it; Request checks all of it once and is then a
// set of views into that room; Response is the list that goes back, and the step writes into it in place. A batch is
// handled request by request, each answer behind the one before in one buffer.
//
// An instance serves one request at a time. What a step keeps in variables is gone with the request, since the host
// restores the instance as configuring left it, unless the bundle says `state: keep`. There are no files, no network, no
// clock and no randomness. An exception is logged with its place and then traps: there is no catching, so that the
// request fails as the step's fault, and the host throws the instance away.

export { Datatype, Level, feature, count, log } from "./host"
export { Request, Tensor, Values, Elements } from "./list"
export { Response, Output, Writer } from "./response"
export { f16ToF32, f32ToF16, bf16ToF32, f32ToBf16 } from "./half"
export { handle, onConfigure, configuration } from "./step"
