//! The kit for pre- and post-processing steps written in Rust: version 1 of Dhow's contract with a WASM guest.
//!
//! A step is a library crate of type `cdylib`:
//!
//! ```
//! use dhow_guest::{Datatype, Error, Request, Response, Step};
//!
//! struct Scale { by: f32 }
//!
//! impl Step for Scale {
//!     fn configure(configuration: &[u8]) -> Result<Self, Error> {
//!         let text = std::str::from_utf8(configuration).map_err(Error::step)?;
//!         Ok(Scale { by: text.trim().parse().map_err(Error::step)? })
//!     }
//!
//!     fn process(&mut self, request: Request<'_>, response: &mut Response) -> Result<(), Error> {
//!         let x = request.want("x", Datatype::Fp32, &[-1]).map_err(Error::Input)?;
//!         let values = x.values::<f32>().unwrap_or_default();
//!         for (y, x) in response.values::<f32>("y", x.shape)?.iter_mut().zip(values) {
//!             *y = x * self.by;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! dhow_guest::step!(Scale);
//! ```
//!
//! Data flow: the host writes a tensor list into room that the kit gives it; [`Request`] checks all of it once and is
//! then a set of views, typed slices included, into that room; [`Response`] is the list that goes back, and the step
//! writes into it in place. A batch is handled request by request, each answer behind the one before in one buffer.
//!
//! An instance serves one request at a time. What a step keeps in itself is gone with the request, since the host
//! restores the instance as `configure` left it, unless the bundle says `state: keep`. There are no files, no network,
//! no clock and no randomness. A panic is logged with its place and then traps: there is no unwinding, so that the
//! request fails as the step's fault, and the host throws the instance away.
//!
//! On other targets [`feature`], [`count`] and [`log`] do nothing, so that a step's own functions can be tested there.

#![deny(missing_docs, unsafe_op_in_unsafe_fn)]

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian and are read in place: this kit is for little-endian targets");

#[doc(hidden)]
pub mod exports;
mod half;
mod host;
mod list;
mod response;

pub use half::{Bf16, F16};
pub use host::{count, feature, log, Level};
pub use list::{Bool, Datatype, Element, Elements, Request, Tensor};
pub use response::{BytesWriter, Response};

/// What a step does. [`step!`] exports it.
pub trait Step: Sized {
    /// Makes the step from the bundle's labels file, as it is (it may be empty); called once for each instance, before
    /// the first request. An error is logged and refuses the bundle.
    fn configure(configuration: &[u8]) -> Result<Self, Error>;

    /// Answers one request.
    fn process(&mut self, request: Request<'_>, response: &mut Response) -> Result<(), Error>;
}

/// Whose fault it is, and a sentence for whoever has to mend it: the sender of the request, or the maker of the step.
/// The host cuts sentences after 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is at fault (a photo that is no photo).
    Input(String),
    /// The step, or what it was given by the model or the bundle, is at fault.
    Step(String),
}

impl Error {
    /// The request is at fault, for this reason.
    pub fn input(reason: impl std::fmt::Display) -> Error {
        Error::Input(reason.to_string())
    }

    /// The step is at fault, for this reason.
    pub fn step(reason: impl std::fmt::Display) -> Error {
        Error::Step(reason.to_string())
    }
}

/// The bounds of the contract; the host refuses what is beyond.
pub mod bounds {
    /// Tensors in one list.
    pub const TENSORS: usize = 64;
    /// Dimensions of a tensor.
    pub const RANK: usize = 16;
    /// Bytes of a tensor's name.
    pub const NAME: usize = 256;
    /// Bytes of a list, and of a batch.
    pub const LIST: usize = 1 << 30;
    /// Requests in a batch.
    pub const BATCH: usize = 256;
    /// Bytes of an error's sentence.
    pub const MESSAGE: usize = 4 << 10;
}
