// The contract's numbers, and what the host offers.

/** An element type of the Open Inference Protocol, by its number in the contract. */
export const enum Datatype {
  BOOL = 1,
  UINT8 = 2,
  UINT16 = 3,
  UINT32 = 4,
  UINT64 = 5,
  INT8 = 6,
  INT16 = 7,
  INT32 = 8,
  INT64 = 9,
  FP16 = 10,
  FP32 = 11,
  FP64 = 12,
  BYTES = 13,
  BF16 = 14,
}

const names: StaticArray<string> = [
  "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
  "BYTES", "BF16",
]
const sizes: StaticArray<u8> = [0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2]

/** The protocol's name, such as "FP32". */
export function datatypeName(d: Datatype): string {
  return names[d]
}

/** Bytes of an element; 0 for BYTES, whose elements have lengths of their own. */
export function datatypeSize(d: Datatype): u32 {
  return sizes[d]
}

/** The datatype of a type of AssemblyScript. */
// @ts-ignore: decorator
@inline
export function datatypeOf<T>(): Datatype {
  if (isBoolean<T>()) return Datatype.BOOL
  if (isFloat<T>()) return sizeof<T>() == 4 ? Datatype.FP32 : Datatype.FP64
  if (!isInteger<T>()) ERROR("elements are numbers or bool")
  const base = isSigned<T>() ? Datatype.INT8 : Datatype.UINT8
  return base + alignof<T>()
}

// The bounds of the contract; the host refuses what is beyond.
export const TENSORS: u32 = 64
export const RANK: u32 = 16
export const NAME: u32 = 256
export const LIST: u32 = 1 << 30
export const BATCH: u32 = 256
export const MESSAGE: u32 = 4 << 10

/** Of a log line. */
export const enum Level {
  DEBUG = 0,
  INFO = 1,
  WARN = 2,
  ERROR = 3,
}

// @ts-ignore: decorator
@external("dhow", "emit_feature")
declare function emitFeature(name: usize, length: i32, value: f64): void

// @ts-ignore: decorator
@external("dhow", "emit_count")
declare function emitCount(name: usize, length: i32, n: u64): void

// @ts-ignore: decorator
@external("dhow", "log")
declare function emitLog(level: u32, line: usize, length: i32): void

/** Reports a number about this input, for drift. The name must be among the bundle's features; NaN and infinity are dropped. */
export function feature(name: string, value: f64): void {
  const b = String.UTF8.encode(name)
  emitFeature(changetype<usize>(b), b.byteLength, value)
}

/** Adds n to a counter. The name must be among the bundle's counters. */
export function count(name: string, n: u64): void {
  const b = String.UTF8.encode(name)
  emitCount(changetype<usize>(b), b.byteLength, n)
}

/** Writes a line to the agent's log. The host cuts lines after 1 KiB and limits their rate. */
export function log(level: Level, line: string): void {
  const b = String.UTF8.encode(line)
  emitLog(level, changetype<usize>(b), b.byteLength)
}

let aborting = false

/** Takes the place of env.abort, which the contract does not offer: tells the reason and its place, then traps. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  if (!aborting) {
    aborting = true // telling it allocates, which may be what failed
    log(Level.ERROR, (message ? message : "exception") + (file ? " (" + file + ":" + line.toString() + ":" + column.toString() + ")" : ""))
  }
  unreachable()
}
