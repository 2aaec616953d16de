// The list that goes back, written in place.

import { Datatype, LIST, MESSAGE, NAME, RANK, TENSORS, datatypeOf, datatypeSize } from "./host"
import { Tensor, elementsOf, fits, outOfRange, quoted } from "./list"

const OK: u32 = 0
const INPUT_ERROR: u32 = 1
const STEP_ERROR: u32 = 2

/** How many bytes of a buffer are kept for the next request. */
export const KEEP: usize = 1 << 20

/** The elements of a tensor of the response, zero at first. They stay in reach when more tensors are added. */
export class Output<T> {
  constructor(
    private response: Response,
    private offset: usize,
    readonly length: i32,
  ) {}

  // @ts-ignore: decorator
  @inline
  @operator("[]=") private put(i: i32, value: T): void {
    if (<u32>i >= <u32>this.length) outOfRange(i, this.length)
    store<T>(this.address + (<usize>i << alignof<T>()), value)
  }

  // @ts-ignore: decorator
  @inline
  @operator("[]") private at(i: i32): T {
    if (<u32>i >= <u32>this.length) outOfRange(i, this.length)
    return load<T>(this.address + (<usize>i << alignof<T>()))
  }

  /** Sets the element, without looking whether there is one. */
  // @ts-ignore: decorator
  @inline
  @operator("{}=") private putUnchecked(i: i32, value: T): void {
    store<T>(this.address + (<usize>i << alignof<T>()), value)
  }

  /** Where they lie until the response grows. */
  // @ts-ignore: decorator
  @inline
  get address(): usize {
    return this.response.base + this.offset
  }
}

/** Takes the elements of a BYTES tensor. */
export class Writer {
  constructor(private response: Response) {}

  /** Adds an element. */
  push(address: usize, length: i32): void {
    this.begin()
    this.append(address, length)
  }

  /** Adds an element. */
  text(s: string): void {
    const b = String.UTF8.encode(s)
    this.push(changetype<usize>(b), b.byteLength)
  }

  /** Begins an element, to which append adds. */
  begin(): void {
    const r = this.response
    r.elements++
    r.element = r.length
    if (r.extend(4) == 0) return
    store<u32>(r.base + r.element, 0)
  }

  /** Adds to the element that was begun last. */
  append(address: usize, length: i32): void {
    const r = this.response
    const to = r.extend(length)
    if (to == 0) return
    memory.copy(to, address, length)
    const size = r.base + r.element
    store<u32>(size, load<u32>(size) + length)
  }
}

/**
 * The answer that a step builds, tensor by tensor, or its error. A method that returns null has found a reason why there
 * can be no such tensor; the response has it already, and the step only has to return.
 */
export class Response {
  // Everything below is for the kit.
  base: usize = 0 // the buffer
  length: usize = 0 // bytes in use
  elements: i64 = 0 // of the BYTES tensor that is being written
  element: usize = 0 // offset of its last element
  private capacity: usize = 0
  private list: usize = 0 // offset of the list
  private tensors: u32 = 0
  private heads: StaticArray<u32> = new StaticArray<u32>(TENSORS) // their offsets
  private open: bool = false // whether the last one is a BYTES tensor that is being written
  private status: u32 = OK
  private message: string = ""

  /** The request is at fault, for this reason. */
  inputError(reason: string): void {
    if (this.status == OK) {
      this.status = INPUT_ERROR
      this.message = reason
    }
  }

  /** The step, or what it was given by the model or the bundle, is at fault. */
  stepError(reason: string): void {
    if (this.status == OK) {
      this.status = STEP_ERROR
      this.message = reason
    }
  }

  /** Adds a tensor of T's datatype. */
  values<T>(name: string, shape: u64[]): Output<T> | null {
    const b = String.UTF8.encode(name)
    return this.numbers<T>(changetype<usize>(b), b.byteLength, datatypeOf<T>(), shape.dataStart, shape.length)
  }

  /** Adds an FP16 or BF16 tensor, whose elements are given by their bits. */
  halves(name: string, datatype: Datatype, shape: u64[]): Output<u16> | null {
    if (!fits<u16>(datatype)) throw new TypeError("halves are FP16 or BF16")
    const b = String.UTF8.encode(name)
    return this.numbers<u16>(changetype<usize>(b), b.byteLength, datatype, shape.dataStart, shape.length)
  }

  /** Adds a tensor of T's datatype and another tensor's shape. */
  like<T>(name: string, t: Tensor): Output<T> | null {
    const b = String.UTF8.encode(name)
    return this.numbers<T>(changetype<usize>(b), b.byteLength, datatypeOf<T>(), t.shape, t.rank)
  }

  /** Adds a BYTES tensor. The writer must be given as many elements as the shape has before the next tensor is added. */
  bytes(name: string, shape: u64[]): Writer | null {
    const b = String.UTF8.encode(name)
    return this.texts(changetype<usize>(b), b.byteLength, shape.dataStart, shape.length)
  }

  /** Adds a tensor of another tensor's name, datatype and shape, to be filled. */
  same<T>(t: Tensor): Output<T> | null {
    if (!fits<T>(t.datatype)) throw new TypeError("tensor " + quoted(t.name) + " is " + t.kind() + ", not of " + nameof<T>())
    return this.numbers<T>(t.nameAddress, t.nameLength, t.datatype, t.shape, t.rank)
  }

  /** Adds a BYTES tensor of another tensor's name and shape. */
  sameBytes(t: Tensor): Writer | null {
    return this.texts(t.nameAddress, t.nameLength, t.shape, t.rank)
  }

  /** Adds a tensor of the request as it is. */
  pass(t: Tensor): void {
    if (!this.head(t.nameAddress, t.nameLength, t.datatype, t.shape, t.rank)) return
    const to = this.extend(t.size)
    if (to == 0) return
    memory.copy(to, t.address, t.size)
    this.end(t.size)
  }

  private numbers<T>(name: usize, length: i32, datatype: Datatype, shape: usize, rank: i32): Output<T> | null {
    if (!this.head(name, length, datatype, shape, rank)) return null
    const n = elementsOf(shape, rank)
    if (n > <i64>LIST || this.extend(n * datatypeSize(datatype)) == 0) {
      this.refuse(String.UTF8.decodeUnsafe(name, length), "does not fit into a list of " + LIST.toString() + " bytes")
      return null
    }
    const size = <usize>n * datatypeSize(datatype)
    const offset = this.length - size
    this.end(size)
    return new Output<T>(this, offset, <i32>n)
  }

  private texts(name: usize, length: i32, shape: usize, rank: i32): Writer | null {
    if (!this.head(name, length, Datatype.BYTES, shape, rank)) return null
    this.open = true
    this.elements = 0
    return new Writer(this)
  }

  private refuse(name: string, reason: string): void {
    this.status = OK // a bound that was broken below says less
    this.stepError("tensor " + quoted(name) + " " + reason)
  }

  // Writes what stands before the data, its length excepted.
  private head(name: usize, length: u32, datatype: Datatype, shape: usize, rank: u32): bool {
    if (!this.close() || this.status != OK) return false
    if (this.tensors == TENSORS) {
      this.stepError("list has more than " + TENSORS.toString() + " tensors")
      return false
    }
    if (length == 0 || length > NAME) {
      this.refuse(String.UTF8.decodeUnsafe(name, length), "has a name of " + length.toString() + " bytes, 1 to " + NAME.toString() + " are allowed")
      return false
    }
    if (rank > RANK || elementsOf(shape, rank) < 0) {
      this.refuse(String.UTF8.decodeUnsafe(name, length), "has a shape that is none: at most " + RANK.toString() + " dimensions, none negative, and no more elements than memory could hold")
      return false
    }
    for (let i: u32 = 0; i < this.tensors; i++) {
      const other = this.base + this.heads[i]
      if (load<u16>(other, 2) == length && memory.compare(other + 8 + 8 * load<u8>(other, 1), name, length) == 0) {
        this.stepError("tensor name " + quoted(String.UTF8.decodeUnsafe(name, length)) + " occurs twice")
        return false
      }
    }
    const start = this.length
    const to = this.extend(8 + 8 * rank + length)
    if (to == 0) return false
    this.heads[this.tensors++] = <u32>start
    store<u8>(to, <u8>datatype)
    store<u8>(to, <u8>rank, 1)
    store<u16>(to, <u16>length, 2)
    memory.copy(to + 8, shape, 8 * rank)
    memory.copy(to + 8 + 8 * rank, name, length)
    return this.pad()
  }

  // Ends the data of the last tensor.
  private end(size: usize): bool {
    store<u32>(this.base + this.heads[this.tensors - 1], <u32>size, 4)
    return this.pad()
  }

  // Ends a BYTES tensor, if one is being written.
  private close(): bool {
    if (!this.open) return true
    this.open = false
    const head = this.base + this.heads[this.tensors - 1]
    const rank = <i32>load<u8>(head, 1), length = <u32>load<u16>(head, 2)
    if (elementsOf(head + 8, rank) != this.elements) {
      this.stepError("tensor " + quoted(String.UTF8.decodeUnsafe(head + 8 + 8 * rank, length)) + " was given " + this.elements.toString() + " elements, its shape has " + elementsOf(head + 8, rank).toString())
      return false
    }
    const data = this.heads[this.tensors - 1] + ((8 + 8 * <u32>rank + length + 7) & ~7)
    return this.end(this.length - <usize>data)
  }

  // Zeros up to a multiple of 8; extend has written them beyond what it was asked for.
  private pad(): bool {
    this.length = (this.length + 7) & ~7
    return true
  }

  /** Adds n bytes of zeros and returns where they lie, or 0 where the list would be too long. */
  extend(n: u64): usize {
    const end = <u64>this.length + n
    if (end - this.list > LIST) {
      this.stepError("the list is longer than " + LIST.toString() + " bytes")
      return 0
    }
    const needed = (<usize>end + 7) & ~7
    if (needed > this.capacity) {
      const capacity = max<usize>(needed, min<usize>(2 * this.capacity, this.capacity + (16 << 20)))
      this.base = this.base ? heap.realloc(this.base, capacity) : heap.alloc(capacity)
      this.capacity = capacity
    }
    const start = this.base + this.length
    memory.fill(start, 0, needed - this.length)
    this.length = <usize>end
    return start
  }

  /** Forgets everything, before an answer or a batch of them. */
  clear(): void {
    this.length = 0
  }

  /** Gives a large buffer back, once the host has read it. */
  shrink(): void {
    this.length = 0
    if (this.capacity > KEEP) {
      heap.free(this.base)
      this.base = 0
      this.capacity = 0
    }
  }

  /** Begins a list behind what is there. */
  begin(): void {
    this.list = this.length
    this.tensors = 0
    this.open = false
    this.status = OK
    this.message = ""
    this.extend(8)
  }

  /** Ends the list, or puts the error's sentence in its place, and returns the status. size is the length in bytes. */
  seal(): u32 {
    if (this.status == OK && this.close()) {
      const size = this.length - this.list
      store<u32>(this.base + this.list, this.tensors)
      store<u32>(this.base + this.list, <u32>size, 4)
      this.size = <u32>size
      return OK
    }
    this.length = this.list
    const b = String.UTF8.encode(this.message)
    let size = min(<u32>b.byteLength, MESSAGE)
    while (size < <u32>b.byteLength && (load<u8>(changetype<usize>(b) + size) & 0xc0) == 0x80) size-- // not inside a character
    memory.copy(this.extend(size), changetype<usize>(b), size)
    this.pad()
    this.size = size
    return this.status
  }

  /** Bytes of what seal left. */
  size: u32 = 0
}
