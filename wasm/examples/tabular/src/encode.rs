//! Rows become numbers.

use dhow_guest::{Bf16, Bool, Datatype, Elements, Request, Tensor, F16};

use crate::table::{Column, Kind, Table};
use crate::MAX_ROWS;

/// What one request held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub missing: u64,
    pub unknown: u64,
    pub categories: u64, // cells of categories
}

/// An element of the matrix.
pub trait Number: Copy {
    /// x as an element, or None if it cannot be one.
    fn from_f64(x: f64) -> Option<Self>;
}

impl Number for f32 {
    fn from_f64(x: f64) -> Option<f32> {
        Some(x as f32)
    }
}

impl Number for i64 {
    /// Whole numbers up to 2^53, which a double holds exactly.
    fn from_f64(x: f64) -> Option<i64> {
        (x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0).then(|| x as i64)
    }
}

/// How many features a request may emit; two are kept for the shares.
const MAX_DRIFT: usize = 1000;

/// The number of rows, if all columns are there and agree.
pub fn rows(table: &Table, request: &Request<'_>) -> Result<usize, String> {
    let mut rows = None;
    for c in &table.columns {
        let t = request.get(&c.name).ok_or_else(|| format!("column {:?} is missing", c.name))?;
        let n = match *t.shape {
            [n] | [n, 1] => n,
            _ => return Err(format!("column {:?} is {}, [n] or [n,1] is wanted", c.name, t.kind())),
        };
        match rows {
            None if n == 0 || n > MAX_ROWS as u64 => {
                return Err(format!("the table has {n} rows, 1 to {MAX_ROWS} are allowed"))
            }
            None => rows = Some(n),
            Some(r) if r != n => return Err(format!("column {:?} has {n} rows, those before it {r}", c.name)),
            Some(_) => {}
        }
    }
    Ok(rows.unwrap_or(0) as usize)
}

/// Fills the matrix, which is all zeros, column by column. An error names the column and the row.
pub fn fill<T: Number>(
    table: &Table,
    request: &Request<'_>,
    out: &mut [T],
    drift: impl Fn(&str, f64),
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut emitted = 0;
    let one = T::from_f64(1.0).ok_or("a matrix without 1")?;
    for c in &table.columns {
        let t = request.get(&c.name).ok_or_else(|| format!("column {:?} is missing", c.name))?;
        let mut cells = Cells::new(t, &table.missing);
        for (row, out) in out.chunks_exact_mut(table.width).enumerate() {
            let refused = |reason: String| format!("column {:?}, row {row}: {reason}", c.name);
            let cell = cells.next().unwrap_or(Cell::Missing);
            let encoded = encode(c, cell, &mut seen).map_err(refused)?;
            if let (Cell::Missing, Some(flag)) = (cell, c.flag) {
                out[flag] = one;
            }
            if let Some(x) = encoded.value {
                let number = T::from_f64(x).ok_or_else(|| refused(format!("{x} is not a whole number below 2^53")))?;
                out[c.at + encoded.place] = number;
            }
            if c.drift && emitted < MAX_DRIFT {
                if let Some(raw) = encoded.raw {
                    drift(&c.name, raw);
                    emitted += 1;
                }
            }
        }
    }
    Ok(seen)
}

struct Encoded {
    place: usize,       // among the column's own
    value: Option<f64>, // None leaves zeros
    raw: Option<f64>,   // for drift
}

fn encode(c: &Column, cell: Cell<'_>, seen: &mut Seen) -> Result<Encoded, String> {
    match &c.kind {
        Kind::Number { missing, mean, std } => {
            let (x, raw) = match cell {
                Cell::Missing => {
                    seen.missing += 1;
                    (missing.ok_or("a value is missing")?, None)
                }
                Cell::Number(x) if x.is_infinite() => return Err(format!("{x} is no number")),
                Cell::Number(x) => (x, Some(x)),
                Cell::Text(text) => {
                    let x = number(text).ok_or_else(|| format!("{:?} is no number", String::from_utf8_lossy(text)))?;
                    (x, Some(x))
                }
            };
            Ok(Encoded { place: 0, value: Some((x - mean) / std), raw })
        }
        Kind::Category { values, one_hot, unknown, missing } => {
            seen.categories += 1;
            let digits;
            let text = match cell {
                Cell::Missing => {
                    seen.missing += 1;
                    let value = (!one_hot).then(|| missing.unwrap_or(values.len() as f64));
                    return Ok(Encoded { place: 0, value, raw: None });
                }
                Cell::Text(text) => text,
                Cell::Number(x) if x.fract() == 0.0 => {
                    digits = format!("{x}").into_bytes();
                    &digits
                }
                Cell::Number(x) => return Err(format!("{x} is no category")),
            };
            match values.binary_search_by(|(v, _)| v.as_slice().cmp(text)) {
                Ok(i) => {
                    let index = values[i].1;
                    let (place, value) = if *one_hot { (index, 1.0) } else { (0, index as f64) };
                    Ok(Encoded { place, value: Some(value), raw: Some(index as f64) })
                }
                Err(_) => {
                    seen.unknown += 1;
                    let value = (!one_hot).then(|| unknown.unwrap_or(values.len() as f64));
                    Ok(Encoded { place: 0, value, raw: Some(values.len() as f64) })
                }
            }
        }
    }
}

/// A decimal number; infinity is none. Spaces around it do not matter.
fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim_matches(' ');
    if !text.bytes().all(|c| c.is_ascii_digit() || b"+-.eE".contains(&c)) {
        return None;
    }
    text.parse().ok().filter(|x: &f64| x.is_finite())
}

#[derive(Debug, Clone, Copy)]
enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a [u8]),
}

/// A column's cells in turn.
struct Cells<'a, 'm> {
    tensor: Tensor<'a>,
    texts: Option<Elements<'a>>,
    missing: &'m [Vec<u8>],
    at: usize,
}

impl<'a, 'm> Cells<'a, 'm> {
    fn new(t: &Tensor<'a>, missing: &'m [Vec<u8>]) -> Self {
        Cells { tensor: *t, texts: t.elements(), missing, at: 0 }
    }
}

impl<'a> Iterator for Cells<'a, '_> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        if let Some(texts) = &mut self.texts {
            let text = texts.next()?;
            return Some(if self.missing.iter().any(|m| m == text) { Cell::Missing } else { Cell::Text(text) });
        }
        let i = self.at;
        self.at += 1;
        let t = &self.tensor;
        macro_rules! at {
            ($type:ty) => {
                t.values::<$type>()?.get(i)
            };
        }
        let x = match t.datatype {
            Datatype::Bool => f64::from(u8::from(bool::from(*at!(Bool)?))),
            Datatype::Uint8 => f64::from(*at!(u8)?),
            Datatype::Uint16 => f64::from(*at!(u16)?),
            Datatype::Uint32 => f64::from(*at!(u32)?),
            Datatype::Uint64 => *at!(u64)? as f64,
            Datatype::Int8 => f64::from(*at!(i8)?),
            Datatype::Int16 => f64::from(*at!(i16)?),
            Datatype::Int32 => f64::from(*at!(i32)?),
            Datatype::Int64 => *at!(i64)? as f64,
            Datatype::Fp16 => f64::from(f32::from(*at!(F16)?)),
            Datatype::Bf16 => f64::from(f32::from(*at!(Bf16)?)),
            Datatype::Fp32 => f64::from(*at!(f32)?),
            Datatype::Fp64 => *at!(f64)?,
            Datatype::Bytes => return None, // read above
        };
        Some(if x.is_nan() { Cell::Missing } else { Cell::Number(x) })
    }
}
