// A post-processing step that turns a classifier's scores into JSON, by a template, in the language that is asked for.
//
// In: the scores, FP32 [n,classes], named by `scores`, and, where a stage before hands it on, "language", BYTES [1] or
// [n]. Out: "answer", BYTES [n], each element a JSON value. The configuration, the bundle's labels file, is read by
// template.ts, which says what may stand in it; a template that does not make JSON refuses the bundle.
//
// It counts unsure, rows in which no class reaches the threshold, and reports the features confidence and margin: each
// row's best score, and how far the second is behind it.

import { Datatype, Request, Response, Tensor, configuration, count, feature, handle, onConfigure } from "../../guest/assemblyscript/assembly/index"
import { Buffer, isJSON, isUTF8 } from "./json"
import { Plan, plan } from "./template"
export * from "../../guest/assemblyscript/assembly/exports"

// How many rows of one request report features; the contract bounds how much may be emitted.
const REPORTED = 500

let made: Plan | null = null

function configure(text: string): string | null {
  const raw = configuration()
  if (!isUTF8(changetype<usize>(raw), raw.byteLength)) return "the configuration is not UTF-8"
  const p = plan(text)
  if (p.problem) return p.problem
  // All classes, none, one, and all as low as they may be: what these make decides of every answer.
  let low = <f32>p.threshold
  if (<f64>low < p.threshold) low = reinterpret<f32>(reinterpret<u32>(low) + 1)
  const high = <f32>(p.threshold + 1), below = <f32>(p.threshold - 1)
  const first: StaticArray<f32> = [high, below, high, low], rest: StaticArray<f32> = [high, below, below, low]
  const sample = new StaticArray<f32>(p.classes)
  for (let language = 0; language < p.languages.length; language++) {
    for (let i = 0; i < first.length; i++) {
      sample.fill(rest[i])
      sample[0] = first[i]
      const out = new Buffer()
      p.render(changetype<usize>(sample), language, out)
      if (!isJSON(out)) return "in language " + p.languages[language] + " the template makes no JSON: " + out.text()
    }
  }
  // A name that happens to be a number would do without quotation marks, and the next one would not.
  const standIn = new Buffer()
  standIn.addText("a")
  p.standIn = standIn
  sample.fill(high)
  const out = new Buffer()
  p.render(changetype<usize>(sample), 0, out)
  p.standIn = null
  if (!isJSON(out)) return "the template makes no JSON with names and texts in it, which belong between quotation marks: " + out.text()
  made = p
  return null
}

function process(request: Request, response: Response): void {
  const p = made
  if (!p) return response.stepError("there is no configuration")
  const scores = request.want(p.scores, Datatype.FP32, [-1, p.classes])
  if (!scores) return response.stepError("the model's scores do not fit the labels: " + request.problem)
  const values = scores.values<f32>(), rows = <i32>scores.dimension(0)
  for (let i = 0; i < values.length; i++) {
    if (!(Mathf.abs(values[i]) <= 1e9)) return response.stepError("the model's score " + i.toString() + " is no number up to 1e9")
  }
  const languages = request.get("language")
  if (languages && (languages.datatype != Datatype.BYTES || languages.rank != 1 || (languages.length != 1 && languages.length != rows))) {
    return response.inputError("language is " + languages.kind() + ", BYTES [1] or [" + rows.toString() + "] is wanted")
  }
  const asked = languages ? languages.elements() : null
  const one = languages != null && languages.length == 1
  const writer = response.bytes("answer", [rows])
  if (!writer) return
  const out = new Buffer()
  let unsure: u64 = 0, language = 0
  for (let row = 0; row < rows; row++) {
    if (asked && (row == 0 || !one)) language = asked.next() ? p.language(asked.address, asked.length) : 0
    out.length = 0
    const from = values.address + 4 * row * p.classes
    if (p.render(from, language, out) == 0) unsure++
    writer.push(out.address, out.length)
    if (row < REPORTED) report(from, p.classes)
  }
  count("unsure", unsure)
}

function report(scores: usize, classes: i32): void {
  let best: f32 = -Infinity, second: f32 = -Infinity
  for (let i = 0; i < classes; i++) {
    const s = load<f32>(scores + 4 * i)
    if (s > best) {
      second = best
      best = s
    } else if (s > second) second = s
  }
  feature("confidence", best)
  if (classes > 1) feature("margin", <f64>best - <f64>second)
}

onConfigure(configure)
handle(process)
