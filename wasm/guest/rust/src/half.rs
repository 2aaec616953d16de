//! The two 16-bit floating point types, which Rust has not.

/// An FP16 element (IEEE 754 binary16), by its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// A BF16 element (the upper half of a binary32), by its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl From<F16> for f32 {
    fn from(h: F16) -> f32 {
        let sign = u32::from(h.0 & 0x8000) << 16;
        let exponent = u32::from(h.0 >> 10) & 0x1f;
        let fraction = u32::from(h.0 & 0x3ff);
        let bits = match exponent {
            0 if fraction == 0 => 0,
            0 => {
                // A subnormal is fraction times 2^-24, which binary32 holds as a normal number.
                return f32::from_bits(sign | 0x3380_0000) * fraction as f32;
            }
            0x1f => 0x7f80_0000 | fraction << 13,
            _ => (exponent + 112) << 23 | fraction << 13,
        };
        f32::from_bits(sign | bits)
    }
}

impl From<f32> for F16 {
    /// Rounds to the nearest, ties to even; what is too large becomes infinity.
    fn from(f: f32) -> F16 {
        let bits = f.to_bits();
        let sign = (bits >> 16) as u16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        let half = match magnitude {
            0x7f80_0001.. => 0x7e00,
            0x4780_0000.. => 0x7c00,
            // Adding one half moves the fraction of a small number to where the addition itself rounds it right.
            0..=0x387f_ffff => ((f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000) as u16,
            // 0xfff is one less than half of the last place that stays; the place's own bit makes ties even. A carry
            // goes into the exponent, as it should.
            _ => ((magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13) as u16,
        };
        F16(sign | half)
    }
}

impl From<Bf16> for f32 {
    fn from(b: Bf16) -> f32 {
        f32::from_bits(u32::from(b.0) << 16)
    }
}

impl From<f32> for Bf16 {
    /// Rounds to the nearest, ties to even.
    fn from(f: f32) -> Bf16 {
        let bits = f.to_bits();
        if f.is_nan() {
            return Bf16((bits >> 16) as u16 | 0x40); // rounding could carry a NaN into infinity
        }
        Bf16(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back() {
        for bits in 0..=u16::MAX {
            let f = f32::from(F16(bits));
            let again = F16::from(f);
            assert!(again.0 == bits || f.is_nan() && f32::from(again).is_nan(), "{bits:#x} -> {f} -> {:#x}", again.0);
            let b = f32::from(Bf16(bits));
            let again = Bf16::from(b);
            assert!(again.0 == bits || b.is_nan() && f32::from(again).is_nan(), "{bits:#x} -> {b} -> {:#x}", again.0);
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest() {
        // Between each two neighbours: just below the middle, the middle, just above it.
        for low in 0..0x7bffu16 {
            let (a, b) = (f64::from(f32::from(F16(low))), f64::from(f32::from(F16(low + 1))));
            let middle = ((a + b) / 2.0) as f32; // exact in binary32
            assert_eq!(F16::from(f32::from_bits(middle.to_bits() - 1)).0, low);
            assert_eq!(F16::from(f32::from_bits(middle.to_bits() + 1)).0, low + 1);
            assert_eq!(F16::from(middle).0, low + (low & 1), "tie above {low:#x}");
        }
        assert_eq!(F16::from(65519.9).0, 0x7bff);
        assert_eq!(F16::from(65520.0).0, 0x7c00);
        assert_eq!(f32::from(F16(0x3c00)), 1.0);
        assert_eq!(f32::from(F16(1)), 5.960_464_5e-8);
        assert_eq!(Bf16::from(1.0).0, 0x3f80);
        assert_eq!(Bf16::from(f32::MAX).0, 0x7f80);
    }
}
