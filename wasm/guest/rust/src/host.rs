//! What the host offers.

/// Of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Debug = 0,
    Info = 1,
    Warn = 2,
    Error = 3,
}

/// Reports a number about this input, for drift. The name must be among the bundle's features, and NaN and infinity are
/// dropped.
pub fn feature(name: &str, value: f64) {
    imported::emit_feature(name.as_bytes(), value);
}

/// Adds n to a counter. The name must be among the bundle's counters.
pub fn count(name: &str, n: u64) {
    imported::emit_count(name.as_bytes(), n);
}

/// Writes a line to the agent's log. The host cuts lines after 1 KiB and limits their rate.
pub fn log(level: Level, line: &str) {
    imported::log(level as u32, line.as_bytes());
}

#[cfg(target_arch = "wasm32")]
mod imported {
    mod dhow {
        #[link(wasm_import_module = "dhow")]
        extern "C" {
            pub fn emit_feature(name: *const u8, len: usize, value: f64);
            pub fn emit_count(name: *const u8, len: usize, n: u64);
            pub fn log(level: u32, line: *const u8, len: usize);
        }
    }

    // SAFETY, of all three: the host reads len bytes while the call lasts and writes nothing.
    pub fn emit_feature(name: &[u8], value: f64) {
        unsafe { dhow::emit_feature(name.as_ptr(), name.len(), value) }
    }
    pub fn emit_count(name: &[u8], n: u64) {
        unsafe { dhow::emit_count(name.as_ptr(), name.len(), n) }
    }
    pub fn log(level: u32, line: &[u8]) {
        unsafe { dhow::log(level, line.as_ptr(), line.len()) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod imported {
    pub fn emit_feature(_: &[u8], _: f64) {}
    pub fn emit_count(_: &[u8], _: u64) {}
    pub fn log(_: u32, _: &[u8]) {}
}
