// The configuration: what is answered, and how it is put together.
//
//	# Lines that begin with # are for people.
//	scores probabilities         the model's output; this is the default
//	top 3                        so many classes at most, the best first; 1 by default
//	threshold 0.05               classes below it are left out; 0 by default
//	decimals 3                   of $score; 3 by default
//	languages en ar              what the labels are in; the first is for those who ask for another or for none
//	digits ar ٠١٢٣٤٥٦٧٨٩          of $percent in that language's text
//	template {"text":"$text","language":"$language","count":$count,"classes":[$classes]}
//	class {"rank":$rank,"id":$id,"label":"$label","score":$score,"percent":$percent}
//	text en This is most likely: $label ($percent %).
//	none en I cannot tell what this is.
//	label Trouser|بنطلون          a line for each class, in their order, a name for each language
//
// A text is about the best class and may hold $label, $id, $score and $percent; none takes its place where there is no
// class. $$ is a dollar sign. Names and texts are made fit for a JSON string and belong between quotation marks; template
// and class are JSON already.

import { Buffer, appendEscaped } from "./json"

const enum Field {
  NONE,
  TEXT,
  LANGUAGE,
  COUNT,
  CLASSES,
  RANK,
  ID,
  LABEL,
  SCORE,
  PERCENT,
}

const FIELDS: StaticArray<string> = ["", "text", "language", "count", "classes", "rank", "id", "label", "score", "percent"]
const OF_TEMPLATE: u32 = (1 << Field.TEXT) | (1 << Field.LANGUAGE) | (1 << Field.COUNT) | (1 << Field.CLASSES)
const OF_TEXT: u32 = (1 << Field.ID) | (1 << Field.LABEL) | (1 << Field.SCORE) | (1 << Field.PERCENT)
const OF_CLASS: u32 = OF_TEXT | (1 << Field.RANK)

// Bounds of what a bundle may ask for.
const MAX_TOP = 100
const MAX_LANGUAGES = 64
const MAX_CLASSES = 100000

// A piece of a template: bytes, and then a field.
class Part {
  constructor(
    readonly literal: Buffer,
    readonly field: Field,
  ) {}
}

class Class {
  constructor(
    readonly id: i32,
    readonly score: f64,
  ) {}
}

/** A configuration that was read, or why it could not be. */
export class Plan {
  problem: string | null = null
  scores: string = "probabilities"
  threshold: f64 = 0
  languages: string[] = []
  classes: i32 = 0

  top: i32 = 1
  decimals: i32 = 3
  names: Buffer[] = [] // of languages
  template: Part[] | null = null
  each: Part[] = []
  texts: (Part[] | null)[] = [] // by language
  nones: (Buffer | null)[] = []
  digits: Buffer[][] = []
  labels: Buffer[] = [] // by class, then by language
  latin: Buffer[] = []
  /** Where it is set, it stands in place of every name and text. */
  standIn: Buffer | null = null

  /** The number of the language that is spelt there, or 0. */
  language(address: usize, length: i32): i32 {
    for (let i = 0; i < this.names.length; i++) {
      if (this.names[i].length == length && memory.compare(this.names[i].address, address, length) == 0) return i
    }
    return 0
  }

  /** Writes the answer to a row of scores, each an f32, and returns how many classes it names. */
  render(scores: usize, language: i32, out: Buffer): i32 {
    // The best classes, the lower number first where they are equal.
    const best = new Array<Class>()
    for (let id = 0; id < this.classes; id++) {
      const score = <f64>load<f32>(scores + 4 * id)
      if (score < this.threshold) continue
      let at = best.length
      while (at > 0 && score > best[at - 1].score) at--
      if (at == this.top) continue
      if (best.length == this.top) best.pop()
      best.push(new Class(id, score))
      for (let i = best.length - 1; i > at; i--) {
        const c = best[i]
        best[i] = best[i - 1]
        best[i - 1] = c
      }
    }
    const template = this.template, standIn = this.standIn
    if (!template) return 0
    for (let i = 0; i < template.length; i++) {
      out.add(template[i].literal)
      switch (template[i].field) {
        case Field.TEXT: {
          if (standIn) {
            out.add(standIn)
            break
          }
          const text = this.texts[language], none = this.nones[language]
          if (best.length == 0) {
            if (none) out.add(none)
          } else if (text) this.parts(text, best[0], 1, language, this.digits[language], out)
          break
        }
        case Field.LANGUAGE:
          out.add(standIn ? standIn : this.names[language])
          break
        case Field.COUNT:
          decimal(best.length, 0, this.latin, out)
          break
        case Field.CLASSES:
          for (let k = 0; k < best.length; k++) {
            if (k) out.byte(0x2c)
            this.parts(this.each, best[k], k + 1, language, this.latin, out)
          }
          break
      }
    }
    return best.length
  }

  private parts(parts: Part[], c: Class, rank: i32, language: i32, digits: Buffer[], out: Buffer): void {
    const standIn = this.standIn
    for (let i = 0; i < parts.length; i++) {
      out.add(parts[i].literal)
      switch (parts[i].field) {
        case Field.RANK:
          decimal(rank, 0, this.latin, out)
          break
        case Field.ID:
          decimal(c.id, 0, this.latin, out)
          break
        case Field.LABEL:
          out.add(standIn ? standIn : this.labels[c.id * this.languages.length + language])
          break
        case Field.SCORE:
          decimal(c.score, this.decimals, this.latin, out)
          break
        case Field.PERCENT:
          decimal(100 * c.score, 0, digits, out)
          break
      }
    }
  }
}

// Writes a number that is not beyond 1e11, rounded to the nearest, ties to even.
function decimal(x: f64, decimals: i32, digits: Buffer[], out: Buffer): void {
  let scale: f64 = 1
  for (let i = 0; i < decimals; i++) scale *= 10
  let n = <i64>nearest(x * scale)
  if (n < 0) {
    out.byte(0x2d)
    n = -n
  }
  let unit: i64 = 1, places = 1
  while (n / unit >= 10 || places <= decimals) {
    unit *= 10
    places++
  }
  for (; places > 0; places--) {
    out.add(digits[<i32>(n / unit)])
    n %= unit
    unit /= 10
    if (places == decimals + 1 && decimals) out.byte(0x2e)
  }
}

// Reads digits with at most one point, so few of them that the result is exact; NaN is a problem.
function parseDecimal(s: string): f64 {
  let n: f64 = 0, scale: f64 = 1, point = false, digits = 0
  for (let i = 0; i < s.length; i++) {
    const c = s.charCodeAt(i)
    if (c == 0x2e && !point) point = true
    else if (c >= 0x30 && c <= 0x39 && ++digits <= 15) {
      n = 10 * n + (c - 0x30)
      if (point) scale *= 10
    } else return NaN
  }
  return digits ? n / scale : NaN
}

function encoded(s: string): Buffer {
  const b = new Buffer()
  b.addText(s)
  return b
}

// The latest problem of parts.
let problem = ""

// Cuts a template at its fields; null is a problem.
function parts(s: string, allowed: u32, escape: bool): Part[] | null {
  const out: Part[] = []
  let literal = ""
  for (let i = 0; i < s.length; ) {
    if (s.charCodeAt(i) != 0x24) {
      literal += s.charAt(i++)
      continue
    }
    if (i + 1 < s.length && s.charCodeAt(i + 1) == 0x24) {
      literal += "$"
      i += 2
      continue
    }
    let end = i + 1
    while (end < s.length && s.charCodeAt(end) >= 0x61 && s.charCodeAt(end) <= 0x7a) end++
    const name = s.substring(i + 1, end), field = FIELDS.indexOf(name)
    if (field <= 0 || !(allowed & (1 << field))) {
      problem = "$" + name + " has no meaning here; $$ is a dollar sign"
      return null
    }
    out.push(new Part(piece(literal, escape), field))
    literal = ""
    i = end
  }
  out.push(new Part(piece(literal, escape), Field.NONE))
  return out
}

function piece(s: string, escape: bool): Buffer {
  const b = encoded(s)
  if (!escape) return b
  const e = new Buffer()
  appendEscaped(b, e)
  return e
}

/** Reads a configuration. */
export function plan(text: string): Plan {
  const p = new Plan()
  for (let d = 0; d < 10; d++) p.latin.push(encoded(d.toString()))
  const lines = text.split("\n")
  for (let i = 0; i < lines.length; i++) {
    let line = lines[i]
    if (line.endsWith("\r")) line = line.substring(0, line.length - 1)
    if (line.length == 0 || line.startsWith("#")) continue
    const reason = read(p, line)
    if (reason) {
      p.problem = "line " + (i + 1).toString() + ": " + reason
      return p
    }
  }
  if (!p.template) p.problem = "there is no template"
  else if (!p.classes) p.problem = "there are no labels"
  else {
    for (let i = 0; i < p.languages.length; i++) {
      if (!p.texts[i] != !p.nones[i]) p.problem = "language " + p.languages[i] + " has text without none, or none without text"
    }
  }
  return p
}

// Reads a line; a sentence is a problem.
function read(p: Plan, line: string): string | null {
  const space = line.indexOf(" ")
  const key = space < 0 ? line : line.substring(0, space), rest = space < 0 ? "" : line.substring(space + 1)
  if (rest == "") return key + " is followed by nothing"
  if (key == "scores") {
    p.scores = rest
    return null
  }
  if (key == "top" || key == "decimals") {
    const most = key == "top" ? MAX_TOP : 9, least = key == "top" ? 1 : 0, n = parseDecimal(rest)
    if (!(n >= least && n <= most && n == Math.floor(n))) return key + " is a whole number from " + least.toString() + " to " + most.toString()
    if (key == "top") p.top = <i32>n
    else p.decimals = <i32>n
    return null
  }
  if (key == "threshold") {
    p.threshold = parseDecimal(rest)
    return p.threshold <= 1e6 ? null : "threshold is a number from 0 to 1000000"
  }
  if (key == "languages") {
    if (p.languages.length) return "there are languages already"
    const names = rest.split(" ")
    if (names.length > MAX_LANGUAGES) return "there are more than " + MAX_LANGUAGES.toString() + " languages"
    for (let i = 0; i < names.length; i++) {
      if (names[i] == "" || p.languages.includes(names[i])) return "languages are words, each once, with one space between them"
      p.languages.push(names[i])
      p.names.push(piece(names[i], true))
      p.texts.push(null)
      p.nones.push(null)
      p.digits.push(p.latin)
    }
    return null
  }
  if (key == "template" || key == "class") {
    const cut = parts(rest, key == "template" ? OF_TEMPLATE : OF_CLASS, false)
    if (!cut) return problem
    if (key == "template") p.template = cut
    else p.each = cut
    return null
  }
  if (!p.languages.length) return key + " is not understood, or stands before languages"
  if (key == "label") {
    const names = rest.split("|")
    if (names.length != p.languages.length) return "a label has a name for each language, with | between them"
    if (p.classes == MAX_CLASSES) return "there are more than " + MAX_CLASSES.toString() + " labels"
    for (let i = 0; i < names.length; i++) p.labels.push(piece(names[i], true))
    p.classes++
    return null
  }
  const second = rest.indexOf(" "), language = p.languages.indexOf(second < 0 ? rest : rest.substring(0, second))
  if (key != "text" && key != "none" && key != "digits") return key + " is not understood"
  if (second < 0 || language < 0) return key + " is followed by a language and a text"
  const value = rest.substring(second + 1)
  if (key == "text") {
    const cut = parts(value, OF_TEXT, true)
    if (!cut) return problem
    p.texts[language] = cut
  } else if (key == "none") {
    p.nones[language] = piece(value, true)
  } else {
    const digits: Buffer[] = []
    for (let i = 0; i < value.length; ) {
      const pair = i + 1 < value.length && (value.charCodeAt(i) & 0xfc00) == 0xd800
      digits.push(piece(value.substring(i, i + (pair ? 2 : 1)), true))
      i += pair ? 2 : 1
    }
    if (digits.length != 10) return "digits are ten characters, from 0 to 9"
    p.digits[language] = digits
  }
  return null
}
