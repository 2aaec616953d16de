use super::*;
use crate::exports::Instance;
use crate::{Error, Response, Step};

/// Bytes that begin at a multiple of 8.
pub struct Aligned(Vec<u64>, usize);

impl Aligned {
    pub fn new(b: &[u8]) -> Aligned {
        let mut words = vec![0u64; b.len() / 8 + 1];
        for (i, &c) in b.iter().enumerate() {
            words[i / 8] |= u64::from(c) << (8 * (i % 8));
        }
        Aligned(words, b.len())
    }

    pub fn bytes(&self) -> &[u8] {
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.1) }
    }
}

/// A list of several types, by the writer.
fn sample() -> Aligned {
    let mut r = Response::new();
    r.values::<f32>("f", &[2, 2]).unwrap().copy_from_slice(&[1.0, -2.5, f32::MAX, 0.0]);
    r.values::<i64>("a name of more than eight bytes", &[1]).unwrap()[0] = i64::MIN;
    r.values::<u8>("u", &[3]).unwrap().copy_from_slice(&[7, 8, 9]);
    r.values::<f64>("none", &[2, 0, 3]).unwrap();
    r.values::<Bool>("scalar", &[]).unwrap()[0] = Bool(2);
    r.bytes("b", &[3], |w| ["", "één", "a longer element"].iter().try_for_each(|e| w.push(e))).unwrap();
    Aligned::new(r.finish())
}

#[test]
fn what_was_written_is_read() {
    let list = sample();
    let request = Request::parse(list.bytes()).unwrap();
    assert_eq!(request.tensors.len(), 6);
    assert_eq!(request.get("f").unwrap().values::<f32>().unwrap(), [1.0, -2.5, f32::MAX, 0.0]);
    assert_eq!(request.get("f").unwrap().shape, [2, 2]);
    assert_eq!(request.tensors[1].values::<i64>().unwrap(), [i64::MIN]);
    assert_eq!(request.get("u").unwrap().data, [7, 8, 9]);
    assert!(request.get("none").unwrap().is_empty());
    assert!(bool::from(request.get("scalar").unwrap().values::<Bool>().unwrap()[0]));
    let b = request.get("b").unwrap();
    assert_eq!(b.len(), 3);
    assert_eq!(b.elements().unwrap().collect::<Vec<_>>(), ["".as_bytes(), "één".as_bytes(), b"a longer element"]);
    assert!(b.values::<u8>().is_none() && request.get("f").unwrap().elements().is_none());
    assert!(request.get("g").is_none());
    // Typed slices are views.
    assert_eq!(
        request.get("f").unwrap().values::<f32>().unwrap().as_ptr() as usize,
        request.get("f").unwrap().data.as_ptr() as usize
    );
}

#[test]
fn wanting_says_what_came() {
    let list = sample();
    let request = Request::parse(list.bytes()).unwrap();
    assert!(request.want("f", Datatype::Fp32, &[-1, 2]).is_ok());
    let refusals = [
        (request.want("f", Datatype::Fp32, &[-1, 3]), "tensor \"f\" is FP32 [2,2], FP32 [n,3] is wanted"),
        (request.want("f", Datatype::Fp64, &[2, 2]), "tensor \"f\" is FP32 [2,2], FP64 [2,2] is wanted"),
        (request.want("g", Datatype::Bytes, &[]), "there is no tensor \"g\", BYTES [] is wanted"),
    ];
    for (got, want) in refusals {
        assert_eq!(got.unwrap_err(), want);
    }
}

#[test]
fn every_truncation_is_refused() {
    let list = sample();
    for n in 0..list.bytes().len() {
        let cut = Aligned::new(&list.bytes()[..n]);
        assert!(Request::parse(cut.bytes()).is_err(), "the first {n} bytes were accepted");
        // And with a header that says so.
        if n >= 8 {
            let mut b = list.bytes()[..n].to_vec();
            b[4..8].copy_from_slice(&(n as u32).to_le_bytes());
            assert!(
                Request::parse(Aligned::new(&b).bytes()).is_err(),
                "the first {n} bytes with their length were accepted"
            );
        }
    }
}

/// There is one encoding: whatever is accepted is written again as it was. Each byte is changed in several ways.
#[test]
fn mutants_are_refused_or_mean_what_they_say() {
    let list = sample();
    let mut accepted = 0;
    for i in 0..list.bytes().len() {
        for change in [1, 2, 3, 4, 6, 8, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut b = list.bytes().to_vec();
            b[i] ^= change;
            let mutant = Aligned::new(&b);
            if let Ok(request) = Request::parse(mutant.bytes()) {
                accepted += 1;
                let mut r = Response::new();
                for t in &request.tensors {
                    write(&mut r, t);
                }
                assert_eq!(r.finish(), mutant.bytes());
            }
        }
    }
    assert!(accepted > list.bytes().len());
}

fn write(r: &mut Response, t: &Tensor<'_>) {
    macro_rules! copy {
        ($($datatype:ident: $type:ty),*) => {
            match t.datatype {
                $(Datatype::$datatype => r.values::<$type>(t.name, t.shape).unwrap().copy_from_slice(t.values().unwrap()),)*
                Datatype::Bytes => r.bytes(t.name, t.shape, |w| t.elements().unwrap().try_for_each(|e| w.push(e))).unwrap(),
            }
        };
    }
    copy!(
        Bool: Bool,
        Uint8: u8,
        Uint16: u16,
        Uint32: u32,
        Uint64: u64,
        Int8: i8,
        Int16: i16,
        Int32: i32,
        Int64: i64,
        Fp16: F16,
        Fp32: f32,
        Fp64: f64,
        Bf16: Bf16
    );
}

#[test]
fn shapes() {
    for (shape, want) in [
        (&[][..], Some(1)),
        (&[0], Some(0)),
        (&[2, 3], Some(6)),
        (&[0, 1 << 40], Some(0)),
        (&[1 << 40, 1 << 40], None),
        (&[1 << 40, 0, 1 << 40], None),
        (&[u64::MAX], None),
        (&[0, u64::MAX], None),
        (&[i64::MAX as u64], None),
        (&[i64::MAX as u64 / 16], Some(i64::MAX as u64 / 16)),
    ] {
        assert_eq!(count(shape), want, "{shape:?}");
    }
}

#[test]
fn the_writer_keeps_to_the_bounds() {
    let mut r = Response::new();
    r.values::<u8>("x", &[1]).unwrap();
    let long = "n".repeat(bounds::NAME + 1);
    for (refused, want) in [
        (r.values::<u8>("x", &[1]).map(|_| ()), "occurs twice"),
        (r.values::<u8>("", &[1]).map(|_| ()), "name of 0 bytes"),
        (r.values::<u8>(&long, &[1]).map(|_| ()), "name of 257 bytes"),
        (r.values::<u8>("y", &[1; 17]).map(|_| ()), "17 dimensions"),
        (r.values::<u8>("y", &[1 << 40, 1 << 40]).map(|_| ()), "is no shape"),
        (r.values::<f64>("y", &[1 << 20, 1 << 10]).map(|_| ()), "longer than 1073741824 bytes"),
        (r.bytes("y", &[2], |w| w.push("one")), "was given 1 elements"),
    ] {
        match refused {
            Err(Error::Step(reason)) => assert!(reason.contains(want), "{reason}"),
            other => panic!("{want}: {other:?}"),
        }
    }
    // Nothing is left of what was refused.
    let list = Aligned::new(r.finish());
    let left: Vec<_> = Request::parse(list.bytes()).unwrap().tensors.iter().map(|t| t.name).collect();
    assert_eq!(left, [b"x"]);
    let mut r = Response::new();
    for i in 0..bounds::TENSORS {
        r.values::<u8>(&i.to_string(), &[]).unwrap();
    }
    assert!(r.values::<u8>("one more", &[]).is_err());
    assert_eq!(Request::parse(Aligned::new(r.finish()).bytes()).unwrap().tensors.len(), bounds::TENSORS);
}

struct Double;

impl Step for Double {
    fn configure(configuration: &[u8]) -> Result<Self, Error> {
        if configuration.is_empty() {
            return Err(Error::step("no labels"));
        }
        Ok(Double)
    }

    fn process(&mut self, request: Request<'_>, response: &mut Response) -> Result<(), Error> {
        let x = request.want("x", Datatype::Int32, &[-1]).map_err(Error::Input)?.values::<i32>().unwrap_or_default();
        let y = response.values::<i32>("y", &[x.len() as u64])?;
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.checked_mul(2).ok_or_else(|| Error::step("too large"))?;
        }
        Ok(())
    }
}

fn numbers(x: &[i32]) -> Vec<u8> {
    let mut r = Response::new();
    r.values::<i32>("x", &[x.len() as u64]).unwrap().copy_from_slice(x);
    r.finish().to_vec()
}

fn batch_of(items: &[&[u8]]) -> Vec<u8> {
    let mut b = (items.len() as u32).to_le_bytes().to_vec();
    b.extend([0; 4]);
    for item in items {
        b.extend([0; 4]);
        b.extend((item.len() as u32).to_le_bytes());
        b.extend(*item);
        b.resize((b.len() + 7) & !7, 0);
    }
    let length = b.len() as u32;
    b[4..8].copy_from_slice(&length.to_le_bytes());
    b
}

#[test]
fn batches_are_read_as_they_are_written() {
    let (one, two) = (numbers(&[1]), numbers(&[]));
    let whole = batch_of(&[&one, &two, &one[..9]]);
    let batch = Aligned::new(&whole);
    assert_eq!(parse_batch(batch.bytes()).unwrap(), [&one[..], &two[..], &one[..9]]);
    for n in 0..whole.len() {
        let mut cut = whole[..n].to_vec();
        assert!(parse_batch(&cut).is_err());
        if n >= 8 {
            cut[4..8].copy_from_slice(&(n as u32).to_le_bytes());
            assert!(parse_batch(&cut).is_err(), "the first {n} bytes with their length were accepted");
        }
    }
    for (what, b) in [
        ("none", batch_of(&[])),
        ("too many", batch_of(&[&one[..]; 257])),
        ("padding", {
            let mut b = whole.clone();
            *b.last_mut().unwrap() = 1;
            b
        }),
        ("a status", {
            let mut b = whole;
            b[8] = 1;
            b
        }),
    ] {
        assert!(parse_batch(&b).is_err(), "{what}");
    }
}

#[test]
fn an_instance_hands_out_one_room_at_a_time() {
    let mut i: Instance<Double> = Instance::new();
    let null = std::ptr::null_mut();
    assert_eq!(i.configure(b""), 1);
    assert_eq!(i.configure(b"labels"), 0);
    let room = i.realloc(null, 0, 8, 0);
    assert!(!room.is_null() && room as usize % 8 == 0);
    assert!(i.realloc(null, 0, 8, 8).is_null());
    i.process(&[]);
    let room = i.realloc(null, 0, 8, 24);
    assert!(!room.is_null());
    i.process(&[]);
    assert!(
        i.realloc(room, 24, 8, 48).is_null()
            && i.realloc(null, 0, 16, 8).is_null()
            && i.realloc(null, 0, 8, bounds::LIST + 1).is_null()
    );
}
