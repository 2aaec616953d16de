// What a step sets.

import { Request } from "./list"
import { Response } from "./response"

type Handler = (request: Request, response: Response) => void
type Configure = (text: string) => string | null

export let handler: Handler | null = null
export let configure: Configure | null = null
let labels: ArrayBuffer = new ArrayBuffer(0)

/** Sets the function that answers one request; call it at the end of the main file. */
export function handle(h: Handler): void {
  handler = h
}

/**
 * Sets a function that reads the bundle's labels file once, before the first request; call it at the end of the main file.
 * A sentence refuses the bundle, null accepts it.
 */
export function onConfigure(f: Configure): void {
  configure = f
}

/** The bundle's labels file as it is; empty if there is none. It is set before the first request. */
export function configuration(): ArrayBuffer {
  return labels
}

export function setConfiguration(b: ArrayBuffer): void {
  labels = b
}
