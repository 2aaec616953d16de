//! A guest that does what the name of its first tensor says, for the kit's tests; mostly it returns what it was given.

use dhow_guest::{count, feature, log, Bf16, Bool, Datatype, Error, Level, Request, Response, Step, Tensor, F16};

struct Echo {
    configuration: Vec<u8>,
    calls: u64,
}

impl Step for Echo {
    fn configure(configuration: &[u8]) -> Result<Self, Error> {
        match configuration {
            b"refuse me" => Err(Error::step("these labels are not mine")),
            _ => Ok(Echo { configuration: configuration.to_vec(), calls: 0 }),
        }
    }

    fn process(&mut self, request: Request<'_>, response: &mut Response) -> Result<(), Error> {
        self.calls += 1;
        match request.tensors.first().map_or(&b""[..], |t| t.name) {
            b"emit" => {
                count("known", 3);
                count("unknown", 1);
                feature("bright", 0.5);
                feature("bright", f64::NAN);
                log(Level::Warn, "so far so good");
            }
            b"fail" => return Err(Error::input("no photo")),
            b"break" => return Err(Error::step("lost")),
            b"panic" => panic!("so be it"),
            b"deep" => return Err(Error::step(deep(1))),
            b"spin" => loop {
                seen(&mut self.calls);
            },
            b"hoard" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                    seen(&mut held);
                }
            }
            b"large" => {
                response.values::<f64>("large", &[1 << 16, 1 << 12])?;
            }
            b"twice" => {
                response.values::<u8>("x", &[1])?;
            }
            b"short" => return response.bytes("x", &[2], |w| w.push("one")),
            b"configuration" => return response.bytes("configuration", &[1], |w| w.push(&self.configuration)),
            b"calls" => {
                response.values::<u64>("calls", &[])?[0] = self.calls;
                return Ok(());
            }
            _ => {}
        }
        request.tensors.iter().try_for_each(|t| copy(t, response))
    }
}

/// Copies a tensor by the accessors for its type, so that all of them are used.
fn copy(t: &Tensor<'_>, response: &mut Response) -> Result<(), Error> {
    macro_rules! values {
        ($type:ty) => {
            response.values::<$type>(t.name, t.shape)?.copy_from_slice(t.values().unwrap_or_default())
        };
    }
    match t.datatype {
        Datatype::Bool => values!(Bool),
        Datatype::Uint8 => values!(u8),
        Datatype::Uint16 => values!(u16),
        Datatype::Uint32 => values!(u32),
        Datatype::Uint64 => values!(u64),
        Datatype::Int8 => values!(i8),
        Datatype::Int16 => values!(i16),
        Datatype::Int32 => values!(i32),
        Datatype::Int64 => values!(i64),
        Datatype::Fp16 => values!(F16),
        Datatype::Fp32 => values!(f32),
        Datatype::Fp64 => values!(f64),
        Datatype::Bf16 => values!(Bf16),
        Datatype::Bytes => {
            return response.bytes(t.name, t.shape, |w| t.elements().into_iter().flatten().try_for_each(|e| w.push(e)))
        }
    }
    Ok(())
}

fn deep(n: u64) -> u64 {
    if n == u64::MAX {
        return 0;
    }
    let mut room = [n; 64];
    seen(&mut room);
    deep(n + 1) + room[n as usize % 64]
}

/// Keeps the compiler from knowing what is in x.
fn seen<T>(x: &mut T) {
    // SAFETY: x is written with what was read from it.
    unsafe {
        let x = std::ptr::addr_of_mut!(*x);
        x.write_volatile(x.read_volatile());
    }
}

dhow_guest::step!(Echo);
