// Bytes that grow, and as much of JSON as is needed to be sure of what they are.

export class Buffer {
  private data: StaticArray<u8> = new StaticArray<u8>(32)
  length: i32 = 0

  get address(): usize {
    return changetype<usize>(this.data)
  }

  private grow(n: i32): usize {
    const needed = this.length + n
    if (needed > this.data.length) {
      const larger = new StaticArray<u8>(max(needed, 2 * this.data.length))
      memory.copy(changetype<usize>(larger), this.address, this.length)
      this.data = larger
    }
    const at = this.address + this.length
    this.length = needed
    return at
  }

  byte(b: u8): void {
    store<u8>(this.grow(1), b)
  }

  add(other: Buffer): void {
    const to = this.grow(other.length)
    memory.copy(to, other.address, other.length)
  }

  addText(s: string): void {
    const b = String.UTF8.encode(s)
    const to = this.grow(b.byteLength)
    memory.copy(to, changetype<usize>(b), b.byteLength)
  }

  text(): string {
    return String.UTF8.decodeUnsafe(this.address, this.length)
  }
}

/** Adds from as it stands in a JSON string. */
export function appendEscaped(from: Buffer, to: Buffer): void {
  for (let i = 0; i < from.length; i++) {
    const c = load<u8>(from.address + i)
    if (c == 0x22 || c == 0x5c) {
      to.byte(0x5c)
      to.byte(c)
    } else if (c < 0x20) {
      to.addText("\\u00")
      to.byte(0x30 + (c >> 4))
      to.byte((c & 15) < 10 ? 0x30 + (c & 15) : 0x57 + (c & 15))
    } else to.byte(c)
  }
}

/** Whether bytes are UTF-8: neither cut off nor longer than need be, no surrogates, nothing beyond U+10FFFF. */
export function isUTF8(at: usize, length: i32): bool {
  const end = at + length
  while (at < end) {
    const c = <u32>load<u8>(at++)
    if (c < 0x80) continue
    const more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1
    if (c < 0xc2 || c > 0xf4 || at + more > end) return false
    const first = <u32>load<u8>(at)
    if ((c == 0xe0 && first < 0xa0) || (c == 0xed && first > 0x9f) || (c == 0xf0 && first < 0x90) || (c == 0xf4 && first > 0x8f)) return false
    for (let i = 0; i < more; i++) {
      if ((load<u8>(at++) & 0xc0) != 0x80) return false
    }
  }
  return true
}

const MAX_DEPTH = 64

// What is left of the text that is being looked at. 0 stands for its end, since no JSON holds a zero.
let at: usize = 0
let end: usize = 0

/** Whether the bytes are one JSON value, nested at most 64 deep. */
export function isJSON(b: Buffer): bool {
  at = b.address
  end = at + b.length
  return value(0) && peek() == 0 && at == end
}

function next(): u32 {
  return at < end ? <u32>load<u8>(at) : 0
}

function peek(): u32 {
  while (at < end && (next() == 0x20 || next() == 0x09 || next() == 0x0a || next() == 0x0d)) at++
  return next()
}

function value(depth: i32): bool {
  const c = peek()
  if (c == 0x7b || c == 0x5b) return depth < MAX_DEPTH && list(c == 0x7b, depth)
  if (c == 0x22) return quotedText()
  if (c == 0x74) return word("true")
  if (c == 0x66) return word("false")
  if (c == 0x6e) return word("null")
  return number()
}

function list(object: bool, depth: i32): bool {
  const close: u32 = object ? 0x7d : 0x5d
  at++
  if (peek() == close) {
    at++
    return true
  }
  while (true) {
    if (object) {
      if (peek() != 0x22 || !quotedText() || peek() != 0x3a) return false
      at++
    }
    if (!value(depth + 1)) return false
    const c = peek()
    if (c != 0x2c && c != close) return false
    at++
    if (c == close) return true
  }
}

function quotedText(): bool {
  at++
  while (at < end) {
    const c = next()
    at++
    if (c == 0x22) return true
    if (c < 0x20) return false
    if (c != 0x5c) continue
    const e = next()
    at++
    if (e == 0x75) {
      for (let i = 0; i < 4; i++) {
        const h = next()
        if (!((h >= 0x30 && h <= 0x39) || (h >= 0x41 && h <= 0x46) || (h >= 0x61 && h <= 0x66))) return false
        at++
      }
    } else if (!(e == 0x22 || e == 0x5c || e == 0x2f || e == 0x62 || e == 0x66 || e == 0x6e || e == 0x72 || e == 0x74)) return false
  }
  return false
}

function word(w: string): bool {
  for (let i = 0; i < w.length; i++) {
    if (next() != w.charCodeAt(i)) return false
    at++
  }
  return true
}

function digits(): bool {
  const start = at
  while (next() >= 0x30 && next() <= 0x39) at++
  return at > start
}

function number(): bool {
  if (next() == 0x2d) at++
  if (next() == 0x30) at++
  else if (!digits()) return false
  if (next() == 0x2e) {
    at++
    if (!digits()) return false
  }
  if (next() == 0x65 || next() == 0x45) {
    at++
    if (next() == 0x2b || next() == 0x2d) at++
    if (!digits()) return false
  }
  return true
}
