//! The tensor list and the batch as views: everything is checked once, nothing is copied.

use crate::bounds;
use crate::half::{Bf16, F16};

/// An element type of the Open Inference Protocol, by its number in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Datatype {
    Bool = 1,
    Uint8 = 2,
    Uint16 = 3,
    Uint32 = 4,
    Uint64 = 5,
    Int8 = 6,
    Int16 = 7,
    Int32 = 8,
    Int64 = 9,
    Fp16 = 10,
    Fp32 = 11,
    Fp64 = 12,
    Bytes = 13,
    Bf16 = 14,
}

const DATATYPES: [(Datatype, &str, usize); 14] = [
    (Datatype::Bool, "BOOL", 1),
    (Datatype::Uint8, "UINT8", 1),
    (Datatype::Uint16, "UINT16", 2),
    (Datatype::Uint32, "UINT32", 4),
    (Datatype::Uint64, "UINT64", 8),
    (Datatype::Int8, "INT8", 1),
    (Datatype::Int16, "INT16", 2),
    (Datatype::Int32, "INT32", 4),
    (Datatype::Int64, "INT64", 8),
    (Datatype::Fp16, "FP16", 2),
    (Datatype::Fp32, "FP32", 4),
    (Datatype::Fp64, "FP64", 8),
    (Datatype::Bytes, "BYTES", 0),
    (Datatype::Bf16, "BF16", 2),
];

impl Datatype {
    fn from_number(n: u8) -> Option<Datatype> {
        DATATYPES.get(usize::from(n).wrapping_sub(1)).map(|d| d.0)
    }

    /// The protocol's name, such as "FP32".
    pub fn name(self) -> &'static str {
        DATATYPES[self as usize - 1].1
    }

    /// Bytes of an element; 0 for BYTES, whose elements have lengths of their own.
    pub fn size(self) -> usize {
        DATATYPES[self as usize - 1].2
    }
}

/// A BOOL element: one byte, which the protocol does not hold to 0 and 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl From<Bool> for bool {
    fn from(b: Bool) -> bool {
        b.0 != 0
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type whose values lie in tensors as they are. Every pattern of bits is a value of each of them.
pub trait Element: sealed::Sealed + Copy {
    /// The datatype that it is.
    const DATATYPE: Datatype;
}

macro_rules! elements {
    ($($t:ty: $d:ident),*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t { const DATATYPE: Datatype = Datatype::$d; }
    )*};
}
elements!(
    Bool: Bool,
    u8: Uint8,
    u16: Uint16,
    u32: Uint32,
    u64: Uint64,
    i8: Int8,
    i16: Int16,
    i32: Int32,
    i64: Int64,
    F16: Fp16,
    f32: Fp32,
    f64: Fp64,
    Bf16: Bf16
);

/// One named value of a request. All of it is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// As the protocol carries it; 1 to 256 bytes, mostly but not necessarily UTF-8.
    pub name: &'a [u8],
    /// Of the elements.
    pub datatype: Datatype,
    /// At most 16 dimensions, none above i64::MAX.
    pub shape: &'a [u64],
    /// Row-major and little-endian, of the length that datatype and shape ask for; it begins at a multiple of 8.
    pub data: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self.datatype {
            // The shape was held against the data, which is smaller than memory.
            Datatype::Bytes => self.shape.iter().product::<u64>() as usize,
            d => self.data.len() / d.size(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in place, or None if they are of another datatype.
    pub fn values<T: Element>(&self) -> Option<&'a [T]> {
        if self.datatype != T::DATATYPE {
            return None;
        }
        // SAFETY: data begins at a multiple of 8, has the length of whole elements, and every pattern of bits is a T.
        Some(unsafe {
            std::slice::from_raw_parts(self.data.as_ptr().cast(), self.data.len() / std::mem::size_of::<T>())
        })
    }

    /// The elements of a BYTES tensor in place, or None if it is none.
    pub fn elements(&self) -> Option<Elements<'a>> {
        (self.datatype == Datatype::Bytes).then(|| Elements { rest: self.data })
    }

    /// "FP32 [2,3]", for error messages.
    pub fn kind(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        format!("{} [{}]", self.datatype.name(), shape.join(","))
    }
}

/// The elements of a BYTES tensor, one after the other.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (element, rest) = split_element(self.rest)?;
        self.rest = rest;
        Some(element)
    }
}

fn split_element(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let n = word(data, 0)? as usize;
    let end = n.checked_add(4)?;
    Some((data.get(4..end)?, &data[end..]))
}

/// A request: its tensors, checked against every rule of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// In the order in which they came; their names are unique.
    pub tensors: Vec<Tensor<'a>>,
}

impl<'a> Request<'a> {
    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|t| t.name == name.as_bytes())
    }

    /// The tensor of this name, datatype and shape, where -1 is a dimension that varies; or a sentence that says what
    /// was wanted and what came, for [`Error::Input`](crate::Error::Input) in a pre-processing step or
    /// [`Error::Step`](crate::Error::Step) in a post-processing one.
    pub fn want(&self, name: &str, datatype: Datatype, shape: &[i64]) -> Result<Tensor<'a>, String> {
        let wanted = || {
            let shape: Vec<String> =
                shape.iter().map(|&d| if d < 0 { "n".to_string() } else { d.to_string() }).collect();
            format!("{} [{}] is wanted", datatype.name(), shape.join(","))
        };
        match self.get(name) {
            None => Err(format!("there is no tensor {name:?}, {}", wanted())),
            Some(t) => {
                let fits =
                    t.shape.len() == shape.len() && t.shape.iter().zip(shape).all(|(&d, &w)| w < 0 || d == w as u64);
                if t.datatype != datatype || !fits {
                    return Err(format!("tensor {name:?} is {}, {}", t.kind(), wanted()));
                }
                Ok(*t)
            }
        }
    }

    /// Reads a list, which must begin at a multiple of 8, and checks all of it, the data against the shapes included.
    pub fn parse(list: &'a [u8]) -> Result<Request<'a>, String> {
        if list.as_ptr() as usize % 8 != 0 {
            return Err("list does not begin at a multiple of 8".to_string());
        }
        let (count, length) = match (word(list, 0), word(list, 4)) {
            (Some(count), Some(length)) => (count as usize, length as usize),
            _ => return Err(format!("list of {} bytes is shorter than its header", list.len())),
        };
        if length != list.len() || length > bounds::LIST {
            return Err(format!("list says that it has {length} bytes, it has {}", list.len()));
        }
        if count > bounds::TENSORS {
            return Err(format!("list has {count} tensors, at most {} are allowed", bounds::TENSORS));
        }
        let mut tensors: Vec<Tensor<'a>> = Vec::with_capacity(count);
        let mut rest = &list[8..];
        for i in 0..count {
            let (tensor, behind) = parse_tensor(rest).map_err(|reason| format!("tensor {i}: {reason}"))?;
            if tensors.iter().any(|t| t.name == tensor.name) {
                return Err(format!("tensor name {:?} occurs twice", String::from_utf8_lossy(tensor.name)));
            }
            tensors.push(tensor);
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the last tensor", rest.len()));
        }
        Ok(Request { tensors })
    }
}

const CUT_OFF: &str = "the list ends inside it";

fn parse_tensor(at: &[u8]) -> Result<(Tensor<'_>, &[u8]), String> {
    let (head, at) = split(at, 8).ok_or(CUT_OFF)?;
    let datatype = Datatype::from_number(head[0]);
    let rank = usize::from(head[1]);
    let name_length = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let data_length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if rank > bounds::RANK {
        return Err(format!("it has {rank} dimensions, at most {} are allowed", bounds::RANK));
    }
    if name_length == 0 || name_length > bounds::NAME {
        return Err(format!("its name has {name_length} bytes, 1 to {} are allowed", bounds::NAME));
    }
    let (dimensions, at) = split(at, 8 * rank).ok_or(CUT_OFF)?;
    // SAFETY: everything before is a multiple of 8, the beginning of the list included, and any bits are a u64.
    let shape = unsafe { std::slice::from_raw_parts(dimensions.as_ptr().cast::<u64>(), rank) };
    let (name, at) = split_padded(at, name_length)?;
    let (data, at) = split_padded(at, data_length)?;
    let datatype = datatype.ok_or("it has no valid datatype")?;
    let tensor = Tensor { name, datatype, shape, data };
    let elements = count(shape).ok_or_else(|| format!("its shape {shape:?} is no shape"))?;
    let fits = match datatype {
        Datatype::Bytes => count_elements(data) == Some(elements),
        d => elements.checked_mul(d.size() as u64) == Some(data.len() as u64),
    };
    if !fits {
        return Err(format!("its {} bytes of data are not what {} takes", data.len(), tensor.kind()));
    }
    Ok((tensor, at))
}

/// The number of elements of a shape; None if a dimension is negative as an i64 or the product is beyond any memory.
pub(crate) fn count(shape: &[u64]) -> Option<u64> {
    const MOST: u64 = i64::MAX as u64 / 16;
    if shape.iter().any(|&d| d > i64::MAX as u64) {
        return None;
    }
    // A zero behind dimensions that are too many does not make them fewer.
    let mut n = 1u64;
    for &d in shape.iter().filter(|&&d| d != 0) {
        n = n.checked_mul(d).filter(|&n| n <= MOST)?;
    }
    Some(if shape.contains(&0) { 0 } else { n })
}

fn count_elements(mut data: &[u8]) -> Option<u64> {
    let mut n = 0;
    while !data.is_empty() {
        data = split_element(data)?.1;
        n += 1;
    }
    Some(n)
}

/// The items of a batch of requests: where each list lies.
pub(crate) fn parse_batch(batch: &[u8]) -> Result<Vec<&[u8]>, String> {
    let (count, length) = match (word(batch, 0), word(batch, 4)) {
        (Some(count), Some(length)) => (count as usize, length as usize),
        _ => return Err(format!("batch of {} bytes is shorter than its header", batch.len())),
    };
    if length != batch.len() || length > bounds::LIST {
        return Err(format!("batch says that it has {length} bytes, it has {}", batch.len()));
    }
    if count == 0 || count > bounds::BATCH {
        return Err(format!("batch has {count} items, 1 to {} are allowed", bounds::BATCH));
    }
    let mut items = Vec::with_capacity(count);
    let mut rest = &batch[8..];
    for i in 0..count {
        let (head, at) = split(rest, 8).ok_or_else(|| format!("item {i}: {CUT_OFF}"))?;
        if head[..4] != [0; 4] {
            return Err(format!("item {i} is no request"));
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (list, behind) = split_padded(at, length).map_err(|reason| format!("item {i}: {reason}"))?;
        items.push(list);
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the last item", rest.len()));
    }
    Ok(items)
}

fn word(b: &[u8], at: usize) -> Option<u32> {
    let b = b.get(at..at + 4)?;
    Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn split(b: &[u8], n: usize) -> Option<(&[u8], &[u8])> {
    (n <= b.len()).then(|| b.split_at(n))
}

/// Splits off n bytes and the zeros that fill them up to a multiple of 8.
fn split_padded(b: &[u8], n: usize) -> Result<(&[u8], &[u8]), String> {
    let padded = n.checked_add(7).ok_or(CUT_OFF)? & !7;
    let (part, rest) = split(b, padded).ok_or(CUT_OFF)?;
    let (part, padding) = part.split_at(n);
    if padding.iter().any(|&c| c != 0) {
        return Err("padding is not zero".to_string());
    }
    Ok((part, rest))
}

#[cfg(test)]
mod tests;
