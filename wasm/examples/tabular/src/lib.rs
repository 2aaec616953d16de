//! A pre-processing step that turns rows of a table into the matrix of numbers that a model was trained on.
//!
//! In: a tensor for each column, [n] or [n,1]: BYTES or any number. Other tensors are left out. Out: one tensor, FP32 or
//! INT64 [n,width]. How columns become numbers is told by the configuration, the bundle's labels file:
//!
//! ```text
//! # Lines that begin with # are for people.
//! output features FP32
//! missing NA                                   a word that stands for a missing value, as the empty text and NaN do
//! number Income missing=124 mean=140 std=80 flag drift
//! category Home one-hot
//! = owner
//! = rent
//! category Region index unknown=0 missing=0
//! = north
//! ```
//!
//! number       one column of the matrix: (value - mean) / std. missing= is what stands in for a missing value, often the
//!              median; without it a missing value refuses the request. flag adds a column that is 1 where it was missing.
//! category     index: one column, the value's place in the list of `=` lines, counted from 0; unknown= and missing= are
//!              the numbers of other values and of missing ones, by default the length of the list.
//!              one-hot: a column for each value; all are 0 for unknown and missing ones. flag as above.
//! drift        reports each row's number (before scaling) or index under the column's name.
//!
//! It counts rows, missing and unknown, and reports the features missing_share, of all cells, and unknown_share, of the
//! cells of categories: the first signs that a table has changed.

mod encode;
mod table;

use dhow_guest::{count, feature, Error, Request, Response, Step};

/// Most rows of one request.
const MAX_ROWS: usize = 65_536;

struct Tabular {
    table: table::Table,
}

impl Step for Tabular {
    fn configure(configuration: &[u8]) -> Result<Self, Error> {
        Ok(Tabular { table: table::parse(configuration).map_err(Error::Step)? })
    }

    fn process(&mut self, request: Request<'_>, response: &mut Response) -> Result<(), Error> {
        let rows = encode::rows(&self.table, &request).map_err(Error::Input)?;
        let shape = [rows as u64, self.table.width as u64];
        let seen = if self.table.integers {
            let out = response.values::<i64>(&self.table.output, &shape)?;
            encode::fill(&self.table, &request, out, feature)
        } else {
            let out = response.values::<f32>(&self.table.output, &shape)?;
            encode::fill(&self.table, &request, out, feature)
        }
        .map_err(Error::Input)?;
        count("rows", rows as u64);
        count("missing", seen.missing);
        count("unknown", seen.unknown);
        feature("missing_share", seen.missing as f64 / (rows * self.table.columns.len()) as f64);
        if seen.categories > 0 {
            feature("unknown_share", seen.unknown as f64 / seen.categories as f64);
        }
        Ok(())
    }
}

dhow_guest::step!(Tabular);
