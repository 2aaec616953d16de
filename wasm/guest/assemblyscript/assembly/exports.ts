// The contract's exports. A step's main file has to export them: export * from ".../exports"

import { LIST, Level, log } from "./host"
import { parse, parseBatch, parseProblem } from "./list"
import { KEEP, Response } from "./response"
import { configure as configureStep, handler, setConfiguration } from "./step"

const response = new Response()
const area = memory.data(12, 4)
let room: usize = 0
let roomSize: usize = 0
let roomUsed = false
// What the heap may hold of earlier calls, in an instance that keeps its state.
let calls: u32 = 0
let bytes: u32 = 0

export function dhow_abi_version(): u32 {
  return 1
}

/** Room for one request; the host asks for no more than one at a time. 0 means that there is none. */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  if (old || oldSize || align > 8 || roomUsed || size > LIST) return 0
  if (!room || roomSize < size) {
    if (room) heap.free(room) // before the new one, so that both need not fit
    room = 0
    room = heap.alloc(max<usize>(size, 8))
    roomSize = size
  }
  roomUsed = true
  return room
}

function freeRoom(): void {
  roomUsed = false
  if (roomSize > KEEP) {
    heap.free(room)
    room = 0
    roomSize = 0
  }
}

export function configure(address: usize, length: i32): u32 {
  const b = new ArrayBuffer(length)
  memory.copy(changetype<usize>(b), address, length)
  freeRoom()
  setConfiguration(b)
  const f = configureStep
  const reason = f ? f(String.UTF8.decode(b)) : null
  if (reason) log(Level.ERROR, reason)
  __collect() // what reading it left behind is no part of the image
  return reason ? 1 : 0
}

/** Answers one request and returns the return area. */
export function process(address: usize, length: u32): usize {
  response.clear()
  const status = answer(address, length)
  return hand(status, response.size, length)
}

/** Answers a batch of requests and returns the return area. Each answer is built behind the one before. */
export function process_batch(address: usize, length: u32): usize {
  response.clear()
  const items = parseBatch(address, length)
  if (!items) return refuse("cannot read the batch: " + parseProblem(), length)
  const n = <u32>items.length / 2
  response.begin()
  for (let i: u32 = 0; i < n; i++) {
    const item = response.length
    response.extend(8)
    const status = answer(items[2 * i], items[2 * i + 1])
    store<u32>(response.base + item, status)
    store<u32>(response.base + item, response.size, 4)
    if (response.length > LIST) return refuse("the batch's answers are longer than " + LIST.toString() + " bytes", length)
  }
  store<u32>(response.base, n)
  store<u32>(response.base, <u32>response.length, 4)
  return hand(0, <u32>response.length, length)
}

function refuse(reason: string, length: u32): usize {
  response.clear()
  response.begin()
  response.stepError(reason)
  const status = response.seal()
  return hand(status, response.size, length)
}

// Puts the answer behind what the response holds, and returns its status.
function answer(address: usize, length: u32): u32 {
  response.begin()
  const request = parse(address, length)
  const h = handler
  if (!request) response.stepError("cannot read the request: " + parseProblem())
  else if (!h) response.stepError("the step set no handler: call handle at the end of its main file")
  else h(request, response)
  return response.seal()
}

function hand(status: u32, size: u32, length: u32): usize {
  freeRoom()
  calls++
  bytes += size + length
  store<u32>(area, status)
  store<u32>(area, <u32>response.base, 4)
  store<u32>(area, size, 8)
  return area
}

/** Frees what process returned. Garbage is collected now and then, so that an instance whose state the host restores never pays for it. */
export function cabi_post_process(ret: usize): void {
  response.shrink()
  if (calls >= 16 || bytes > <u32>KEEP) {
    calls = 0
    bytes = 0
    __collect()
  }
}
