// A guest that does what the name of its first tensor says, for the kit's tests; mostly it returns what it was given.

import {
  Datatype, Level, Request, Response, Tensor, bf16ToF32, configuration, count, f16ToF32, f32ToBf16, f32ToF16, feature, handle, log,
  onConfigure,
} from "../assembly/index"
export * from "../assembly/exports"

let kept: StaticArray<u8>[] = []
let calls: u64 = 0

function process(request: Request, response: Response): void {
  calls++
  const mode = request.tensors.length ? request.tensors[0].name : ""
  if (mode == "emit") {
    count("known", 3)
    count("unknown", 1)
    feature("bright", 0.5)
    feature("bright", NaN)
    log(Level.WARN, "so far so good")
  } else if (mode == "fail") {
    return response.inputError("no photo")
  } else if (mode == "break") {
    return response.stepError("lost")
  } else if (mode == "panic") {
    throw new Error("so be it")
  } else if (mode == "deep") {
    calls = deep(1)
  } else if (mode == "spin") {
    while (calls) calls += 2
  } else if (mode == "hoard") {
    while (calls) kept.push(new StaticArray<u8>(1 << 20))
  } else if (mode == "large") {
    if (!response.values<f64>("large", [1 << 16, 1 << 12])) return
  } else if (mode == "twice") {
    const x = response.values<u8>("x", [1])
    if (!x) return
    x[0] = 1
  } else if (mode == "short") {
    const w = response.bytes("x", [2])
    if (!w) return
    return w.text("one")
  } else if (mode == "halves") {
    return halves(request, response)
  } else if (mode == "configuration") {
    const w = response.bytes("configuration", [1])
    const c = configuration()
    if (w) w.push(changetype<usize>(c), c.byteLength)
    return
  }
  for (let i = 0; i < request.tensors.length; i++) copy(request.tensors[i], response)
}

// Copies a tensor by the accessors for its type, so that all of them are used.
function copy(t: Tensor, response: Response): void {
  switch (t.datatype) {
    case Datatype.BOOL: return values<bool>(t, response)
    case Datatype.UINT8: return values<u8>(t, response)
    case Datatype.FP16:
    case Datatype.BF16:
    case Datatype.UINT16: return values<u16>(t, response)
    case Datatype.UINT32: return values<u32>(t, response)
    case Datatype.UINT64: return values<u64>(t, response)
    case Datatype.INT8: return values<i8>(t, response)
    case Datatype.INT16: return values<i16>(t, response)
    case Datatype.INT32: return values<i32>(t, response)
    case Datatype.INT64: return values<i64>(t, response)
    case Datatype.FP32: return values<f32>(t, response)
    case Datatype.FP64: return values<f64>(t, response)
    default: return texts(t, response)
  }
}

function deep(n: u64): u64 {
  if (n == u64.MAX_VALUE) return 0
  return deep(n + 1) * 31 + calls
}

function values<T>(t: Tensor, response: Response): void {
  const from = t.values<T>(), to = response.same<T>(t)
  if (!to) return
  for (let i = 0; i < from.length; i++) to[i] = from[i]
}

// Writes numbers as both 16-bit types, and what those mean.
function halves(request: Request, response: Response): void {
  const x = request.want("halves", Datatype.FP32, [-1])
  if (!x) return response.inputError(request.problem)
  const values = x.values<f32>(), n: u64 = values.length
  const f16 = response.halves("f16", Datatype.FP16, [n])
  const bf16 = response.halves("bf16", Datatype.BF16, [n])
  const back16 = response.like<f32>("f16 read", x)
  const backb = response.values<f32>("bf16 read", [n])
  if (!f16 || !bf16 || !back16 || !backb) return
  for (let i = 0; i < values.length; i++) {
    f16[i] = f32ToF16(values[i])
    bf16[i] = f32ToBf16(values[i])
    back16[i] = f16ToF32(f16[i])
    backb[i] = bf16ToF32(bf16[i])
  }
}

function texts(t: Tensor, response: Response): void {
  const to = response.sameBytes(t)
  if (!to) return
  const from = t.elements()
  while (from.next()) to.push(from.address, from.length)
}

onConfigure((text) => (text == "refuse me" ? "these labels are not mine" : null))
handle(process)
