//! The contract's exports. Only [`step!`](crate::step) uses them.

use std::cell::UnsafeCell;

use crate::list::{parse_batch, Request};
use crate::response::{Response, KEEP};
use crate::{bounds, host, Error, Level, Step};

const TENSORS: u32 = 0;
const INPUT_ERROR: u32 = 1;
const STEP_ERROR: u32 = 2;

/// Everything that an instance holds.
pub struct Instance<S> {
    step: Option<S>,
    room: Vec<u64>, // what the host writes into; its length stays 0, its capacity is what counts
    room_used: bool,
    response: Response,
    area: [u32; 3], // status, address and length of the latest answer
}

/// A cell for the one instance of a module.
pub struct Exports<S>(UnsafeCell<Instance<S>>);

// SAFETY: a WASM instance has one thread, and the host's functions do not call back into it.
unsafe impl<S> Sync for Exports<S> {}

impl<S: Step> Exports<S> {
    /// A module before its configuration.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Exports<S> {
        Exports(UnsafeCell::new(Instance::new()))
    }

    /// The instance.
    #[allow(clippy::mut_from_ref)]
    pub fn instance(&self) -> &mut Instance<S> {
        // SAFETY: as for Sync; each export takes it once and gives it back before it returns.
        unsafe { &mut *self.0.get() }
    }
}

impl<S: Step> Instance<S> {
    pub(crate) const fn new() -> Instance<S> {
        Instance { step: None, room: Vec::new(), room_used: false, response: Response::empty(), area: [0; 3] }
    }

    /// Room for one request; the host asks for no more than one at a time. Null means that there is none.
    pub fn realloc(&mut self, old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
        if !old.is_null() || old_size != 0 || align > 8 || self.room_used || size > bounds::LIST {
            return std::ptr::null_mut();
        }
        let words = (size + 7) / 8;
        let words = words.max(1); // an empty vector has an address, but none that is its own
        if self.room.capacity() < words {
            self.room = Vec::new(); // before the new one, so that both need not fit
            if self.room.try_reserve_exact(words).is_err() {
                return std::ptr::null_mut();
            }
        }
        self.room_used = true;
        self.room.as_mut_ptr().cast()
    }

    /// Returns 0 if the step accepts its configuration.
    pub fn configure(&mut self, configuration: &[u8]) -> u32 {
        std::panic::set_hook(Box::new(|info| host::log(Level::Error, &info.to_string())));
        let step = S::configure(configuration);
        self.free_room();
        match step {
            Ok(step) => {
                self.step = Some(step);
                0
            }
            Err(Error::Input(reason) | Error::Step(reason)) => {
                host::log(Level::Error, &reason);
                1
            }
        }
    }

    /// Answers one request and returns the return area.
    pub fn process(&mut self, list: &[u8]) -> *const u32 {
        self.response.clear();
        let (status, length) = self.answer(list);
        self.hand(status, length)
    }

    /// Answers a batch of requests and returns the return area. Each answer is built behind the one before.
    pub fn process_batch(&mut self, batch: &[u8]) -> *const u32 {
        self.response.clear();
        let requests = match parse_batch(batch) {
            Ok(requests) => requests,
            Err(reason) => return self.refuse_batch(&format!("cannot read the batch: {reason}")),
        };
        let header = self.response.push(requests.len() as u64);
        for list in &requests {
            let item = self.response.push(0);
            let (status, length) = self.answer(list);
            self.response.set(item, u64::from(status) | (length as u64) << 32);
            if self.response.len() > bounds::LIST {
                return self.refuse_batch(&format!("the batch's answers are longer than {} bytes", bounds::LIST));
            }
        }
        let length = self.response.len();
        self.response.set(header, requests.len() as u64 | (length as u64) << 32);
        self.hand(TENSORS, length)
    }

    fn refuse_batch(&mut self, reason: &str) -> *const u32 {
        self.response.clear();
        self.response.begin();
        let length = self.response.fail(reason);
        self.hand(STEP_ERROR, length)
    }

    /// Puts the answer behind what the response holds.
    fn answer(&mut self, list: &[u8]) -> (u32, usize) {
        self.response.begin();
        let outcome = match (Request::parse(list), self.step.as_mut()) {
            (Err(reason), _) => Err(Error::Step(format!("cannot read the request: {reason}"))),
            (_, None) => Err(Error::Step("the step was not configured".to_string())),
            (Ok(request), Some(step)) => step.process(request, &mut self.response),
        };
        match outcome {
            Ok(()) => (TENSORS, self.response.seal()),
            Err(Error::Input(reason)) => (INPUT_ERROR, self.response.fail(&reason)),
            Err(Error::Step(reason)) => (STEP_ERROR, self.response.fail(&reason)),
        }
    }

    fn hand(&mut self, status: u32, length: usize) -> *const u32 {
        self.free_room();
        self.area = [status, self.response.as_ptr() as usize as u32, length as u32];
        self.area.as_ptr()
    }

    /// Frees what process returned.
    pub fn post_process(&mut self) {
        self.response.shrink();
    }

    fn free_room(&mut self) {
        self.room_used = false;
        if self.room.capacity() * 8 > KEEP {
            self.room = Vec::new();
        }
    }
}

/// Exports a [`Step`] under the contract. On targets other than wasm32 it exports nothing.
#[macro_export]
macro_rules! step {
    ($step:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static EXPORTS: $crate::exports::Exports<$step> = $crate::exports::Exports::new();

            #[no_mangle]
            extern "C" fn dhow_abi_version() -> u32 {
                1
            }

            #[no_mangle]
            extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
                EXPORTS.instance().realloc(old, old_size, align, size)
            }

            // SAFETY, of the three that take a request: the host hands in the room that cabi_realloc gave it, and has
            // written len bytes there.
            #[no_mangle]
            unsafe extern "C" fn configure(ptr: *const u8, len: usize) -> u32 {
                EXPORTS.instance().configure(unsafe { std::slice::from_raw_parts(ptr, len) })
            }

            #[no_mangle]
            unsafe extern "C" fn process(ptr: *const u8, len: usize) -> *const u32 {
                EXPORTS.instance().process(unsafe { std::slice::from_raw_parts(ptr, len) })
            }

            #[no_mangle]
            unsafe extern "C" fn process_batch(ptr: *const u8, len: usize) -> *const u32 {
                EXPORTS.instance().process_batch(unsafe { std::slice::from_raw_parts(ptr, len) })
            }

            #[no_mangle]
            extern "C" fn cabi_post_process(_: *const u32) {
                EXPORTS.instance().post_process()
            }
        };
    };
}
