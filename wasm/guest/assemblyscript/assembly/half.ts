// The two 16-bit floating point types, which are handled by their bits.

/** The value of an FP16 element (IEEE 754 binary16). */
export function f16ToF32(bits: u16): f32 {
  const sign = (<u32>bits & 0x8000) << 16
  const exponent = (<u32>bits >> 10) & 0x1f
  const fraction = <u32>bits & 0x3ff
  if (exponent == 0) {
    // A subnormal is fraction times 2^-24, which binary32 holds as a normal number; the sign of zero stays.
    return reinterpret<f32>(sign | 0x33800000) * <f32>fraction
  }
  if (exponent == 0x1f) return reinterpret<f32>(sign | 0x7f800000 | (fraction << 13))
  return reinterpret<f32>(sign | ((exponent + 112) << 23) | (fraction << 13))
}

/** Rounds to the nearest FP16, ties to even; what is too large becomes infinity. */
export function f32ToF16(f: f32): u16 {
  const bits = reinterpret<u32>(f)
  const sign = <u16>((bits >> 16) & 0x8000)
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  if (magnitude >= 0x47800000) return sign | 0x7c00
  if (magnitude < 0x38800000) {
    // Adding one half moves the fraction of a small number to where the addition itself rounds it right.
    return sign | <u16>(reinterpret<u32>(reinterpret<f32>(magnitude) + <f32>0.5) - 0x3f000000)
  }
  // 0xfff is one less than half of the last place that stays; the place's own bit makes ties even. A carry goes into the
  // exponent, as it should.
  return sign | <u16>((magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13)
}

/** The value of a BF16 element (the upper half of a binary32). */
export function bf16ToF32(bits: u16): f32 {
  return reinterpret<f32>(<u32>bits << 16)
}

/** Rounds to the nearest BF16, ties to even. */
export function f32ToBf16(f: f32): u16 {
  const bits = reinterpret<u32>(f)
  if (isNaN(f)) return <u16>(bits >> 16) | 0x40 // rounding could carry a NaN into infinity
  return <u16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)
}
