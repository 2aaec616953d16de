// The tensor list and the batch as views: everything is checked once, nothing is copied.

import { BATCH, Datatype, LIST, NAME, RANK, TENSORS, datatypeName, datatypeOf, datatypeSize } from "./host"

/** Ends a request that asks for an element which is not there; apart from those who ask, so that they stay small. */
export function outOfRange(i: i32, length: i32): void {
  throw new RangeError("element " + i.toString() + " of " + length.toString())
}

/** Elements of a tensor, in place. */
export class Values<T> {
  constructor(
    /** Where they lie. */
    readonly address: usize,
    readonly length: i32,
  ) {}

  // @ts-ignore: decorator
  @inline
  @operator("[]") private at(i: i32): T {
    if (<u32>i >= <u32>this.length) outOfRange(i, this.length)
    return load<T>(this.address + (<usize>i << alignof<T>()))
  }

  /** The element, without looking whether there is one. */
  // @ts-ignore: decorator
  @inline
  @operator("{}") private unchecked(i: i32): T {
    return load<T>(this.address + (<usize>i << alignof<T>()))
  }
}

/** The elements of a BYTES tensor, one after the other: while (e.next()) ... */
export class Elements {
  /** Where the element lies. */
  address: usize = 0
  /** Its length in bytes. */
  length: i32 = 0

  constructor(
    private rest: usize,
    private end: usize,
  ) {}

  next(): bool {
    if (this.rest == this.end) return false
    this.length = load<i32>(this.rest)
    this.address = this.rest + 4
    this.rest = this.address + this.length
    return true
  }

  /** The element as text. */
  text(): string {
    return String.UTF8.decodeUnsafe(this.address, this.length)
  }
}

/** One named value of a request. Everything lies in the request. */
export class Tensor {
  constructor(
    readonly datatype: Datatype,
    /** Where the dimensions lie, each a u64. */
    readonly shape: usize,
    /** Their number, at most 16. */
    readonly rank: i32,
    readonly nameAddress: usize,
    /** Bytes of the name, 1 to 256. */
    readonly nameLength: i32,
    /** Where the elements lie, row-major and little-endian: a multiple of 8. */
    readonly address: usize,
    /** Bytes of the elements. */
    readonly size: i32,
  ) {}

  get name(): string {
    return String.UTF8.decodeUnsafe(this.nameAddress, this.nameLength)
  }

  /** A dimension; not beyond i64.MAX_VALUE. */
  dimension(i: i32): u64 {
    if (<u32>i >= <u32>this.rank) throw new RangeError("dimension " + i.toString() + " of " + this.rank.toString())
    return load<u64>(this.shape + (<usize>i << 3))
  }

  /** The number of elements. */
  get length(): i32 {
    if (this.datatype != Datatype.BYTES) return this.size / datatypeSize(this.datatype)
    return <i32>elementsOf(this.shape, this.rank)
  }

  /** The elements in place. T must be the datatype's type; FP16 and BF16 are read by their bits, as u16. */
  values<T>(): Values<T> {
    if (!fits<T>(this.datatype)) throw new TypeError("tensor " + quoted(this.name) + " is " + this.kind() + ", not of " + nameof<T>())
    return new Values<T>(this.address, this.size >> alignof<T>())
  }

  /** The elements of a BYTES tensor in place. */
  elements(): Elements {
    if (this.datatype != Datatype.BYTES) throw new TypeError("tensor " + quoted(this.name) + " is " + this.kind() + ", not of BYTES")
    return new Elements(this.address, this.address + this.size)
  }

  /** "FP32 [2,3]", for messages. */
  kind(): string {
    let s = datatypeName(this.datatype) + " ["
    for (let i = 0; i < this.rank; i++) s += (i ? "," : "") + this.dimension(i).toString()
    return s + "]"
  }
}

// @ts-ignore: decorator
@inline
export function fits<T>(d: Datatype): bool {
  const own = datatypeOf<T>()
  return d == own || (own == Datatype.UINT16 && (d == Datatype.FP16 || d == Datatype.BF16))
}

export function quoted(s: string): string {
  return '"' + s + '"'
}

// What the latest parse found.
let problem: string = ""

/** A request: its tensors, checked against every rule of the contract. */
export class Request {
  /** Why the latest want returned null. */
  problem: string = ""

  constructor(
    /** In the order in which they came; their names are unique. */
    readonly tensors: Tensor[],
  ) {}

  /** The tensor of this name, or null. */
  get(name: string): Tensor | null {
    const b = String.UTF8.encode(name)
    for (let i = 0; i < this.tensors.length; i++) {
      const t = this.tensors[i]
      if (t.nameLength == b.byteLength && memory.compare(t.nameAddress, changetype<usize>(b), b.byteLength) == 0) return t
    }
    return null
  }

  /**
   * The tensor of this name, datatype and shape, where -1 is a dimension that varies; or null, and then problem says what
   * was wanted and what came, for response.inputError in a pre-processing step or stepError in a post-processing one.
   */
  want(name: string, datatype: Datatype, shape: i64[]): Tensor | null {
    const t = this.get(name)
    if (t && t.datatype == datatype && t.rank == shape.length) {
      let same = true
      for (let i = 0; i < shape.length; i++) same = same && (shape[i] < 0 || t.dimension(i) == <u64>shape[i])
      if (same) return t
    }
    let wanted = datatypeName(datatype) + " ["
    for (let i = 0; i < shape.length; i++) wanted += (i ? "," : "") + (shape[i] < 0 ? "n" : shape[i].toString())
    wanted += "] is wanted"
    this.problem = t ? "tensor " + quoted(name) + " is " + t.kind() + ", " + wanted : "there is no tensor " + quoted(name) + ", " + wanted
    return null
  }
}

/** The dimensions' product, or -1 if one is negative as an i64 or the product is beyond any memory. */
export function elementsOf(shape: usize, rank: i32): i64 {
  const most = i64.MAX_VALUE / 16
  // A zero behind dimensions that are too many does not make them fewer.
  let n: i64 = 1, zero = false
  for (let i = 0; i < rank; i++) {
    const d = load<i64>(shape + (<usize>i << 3))
    if (d < 0) return -1
    if (d == 0) zero = true
    else if (n > most / d) return -1
    else n *= d
  }
  return zero ? 0 : n
}

// The number of elements of BYTES data, or -1 if it is cut off.
function countElements(at: usize, size: u32): i64 {
  let n: i64 = 0
  while (size > 0) {
    if (size < 4) return -1
    const length = load<u32>(at)
    if (length > size - 4) return -1
    at += 4 + length
    size -= 4 + length
    n++
  }
  return n
}

const CUT_OFF = "the list ends inside it"

// The rest of what is being read.
let at: usize = 0
let left: u32 = 0

// Takes n bytes and the zeros that fill them up to a multiple of 8, and returns where they are; 0 is a problem.
function take(n: u32): usize {
  const padded: u64 = (<u64>n + 7) & ~7
  if (padded > left) {
    problem = CUT_OFF
    return 0
  }
  const start = at
  for (let i = n; i < <u32>padded; i++) {
    if (load<u8>(start + i)) {
      problem = "padding is not zero"
      return 0
    }
  }
  at += <usize>padded
  left -= <u32>padded
  return start
}

/** Reads a list, which begins at a multiple of 8, and checks all of it; null is a problem. */
export function parse(address: usize, length: u32): Request | null {
  if (length < 8) {
    problem = "list of " + length.toString() + " bytes is shorter than its header"
    return null
  }
  const n = load<u32>(address), said = load<u32>(address, 4)
  if (said != length || length > LIST) {
    problem = "list says that it has " + said.toString() + " bytes, it has " + length.toString()
    return null
  }
  if (n > TENSORS) {
    problem = "list has " + n.toString() + " tensors, at most " + TENSORS.toString() + " are allowed"
    return null
  }
  at = address + 8
  left = length - 8
  const tensors = new Array<Tensor>()
  for (let i: u32 = 0; i < n; i++) {
    const t = parseTensor()
    if (!t) {
      problem = "tensor " + i.toString() + ": " + problem
      return null
    }
    for (let j = 0; j < tensors.length; j++) {
      const o = tensors[j]
      if (o.nameLength == t.nameLength && memory.compare(o.nameAddress, t.nameAddress, t.nameLength) == 0) {
        problem = "tensor name " + quoted(t.name) + " occurs twice"
        return null
      }
    }
    tensors.push(t)
  }
  if (left) {
    problem = left.toString() + " bytes follow the last tensor"
    return null
  }
  return new Request(tensors)
}

function parseTensor(): Tensor | null {
  const head = take(8)
  if (!head) return null
  const datatype: i32 = load<u8>(head), rank = <u32>load<u8>(head, 1), name = <u32>load<u16>(head, 2), size = load<u32>(head, 4)
  if (rank > RANK) {
    problem = "it has " + rank.toString() + " dimensions, at most " + RANK.toString() + " are allowed"
    return null
  }
  if (name == 0 || name > NAME) {
    problem = "its name has " + name.toString() + " bytes, 1 to " + NAME.toString() + " are allowed"
    return null
  }
  const shape = take(8 * rank)
  if (!shape) return null
  const nameAddress = take(name)
  if (!nameAddress) return null
  const data = take(size)
  if (!data) return null
  if (datatype < Datatype.BOOL || datatype > Datatype.BF16) {
    problem = "it has no valid datatype"
    return null
  }
  const t = new Tensor(datatype, shape, rank, nameAddress, name, data, size)
  const n = elementsOf(shape, rank)
  const same = datatype == Datatype.BYTES ? n == countElements(data, size) : n * datatypeSize(datatype) == size
  if (n < 0 || !same) {
    problem = "its " + size.toString() + " bytes of data are not what " + t.kind() + " takes"
    return null
  }
  return t
}

/** Why the latest parse or parseBatch returned null. */
export function parseProblem(): string {
  return problem
}

/** The items of a batch of requests: where each list lies and how long it is, in turn; null is a problem. */
export function parseBatch(address: usize, length: u32): StaticArray<u32> | null {
  if (length < 8) {
    problem = "batch of " + length.toString() + " bytes is shorter than its header"
    return null
  }
  const n = load<u32>(address), said = load<u32>(address, 4)
  if (said != length || length > LIST) {
    problem = "batch says that it has " + said.toString() + " bytes, it has " + length.toString()
    return null
  }
  if (n == 0 || n > BATCH) {
    problem = "batch has " + n.toString() + " items, 1 to " + BATCH.toString() + " are allowed"
    return null
  }
  at = address + 8
  left = length - 8
  const items = new StaticArray<u32>(2 * n)
  for (let i: u32 = 0; i < n; i++) {
    const head = take(8)
    const list = head ? take(load<u32>(head, 4)) : 0
    if (!list) {
      problem = "item " + i.toString() + ": " + problem
      return null
    }
    if (load<u32>(head)) {
      problem = "item " + i.toString() + " is no request"
      return null
    }
    items[2 * i] = <u32>list
    items[2 * i + 1] = load<u32>(head, 4)
  }
  if (left) {
    problem = left.toString() + " bytes follow the last item"
    return null
  }
  return items
}
