//! The configuration: which columns there are and what becomes of them.

/// How a table is encoded.
#[derive(Debug, PartialEq)]
pub struct Table {
    pub output: String,
    pub integers: bool, // INT64 instead of FP32
    pub width: usize,
    pub missing: Vec<Vec<u8>>, // words that stand for a missing value
    pub columns: Vec<Column>,
}

#[derive(Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub at: usize, // its first column in the matrix
    pub flag: Option<usize>,
    pub drift: bool,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub enum Kind {
    Number {
        missing: Option<f64>,
        mean: f64,
        std: f64,
    },
    /// Values in the order of their bytes, with their indices.
    Category {
        values: Vec<(Vec<u8>, usize)>,
        one_hot: bool,
        unknown: Option<f64>,
        missing: Option<f64>,
    },
}

const MAX_COLUMNS: usize = 64; // as many as a request has tensors
const MAX_WIDTH: usize = 65_536;

/// Reads the configuration, or says which line is wrong.
pub fn parse(configuration: &[u8]) -> Result<Table, String> {
    let text = std::str::from_utf8(configuration).map_err(|e| format!("the configuration is not UTF-8: {e}"))?;
    let mut table = Table { output: String::new(), integers: false, width: 0, missing: vec![vec![]], columns: vec![] };
    for (i, line) in text.lines().enumerate() {
        read_line(&mut table, line).map_err(|reason| format!("line {}: {reason}", i + 1))?;
    }
    if table.output.is_empty() {
        return Err("the configuration has no line \"output NAME FP32\" or \"output NAME INT64\"".to_string());
    }
    if table.columns.is_empty() {
        return Err("the configuration names no column".to_string());
    }
    lay_out(&mut table)?;
    Ok(table)
}

fn read_line(table: &mut Table, line: &str) -> Result<(), String> {
    if let Some(value) = line.strip_prefix("= ") {
        return match table.columns.last_mut().map(|c| &mut c.kind) {
            Some(Kind::Category { values, .. }) => {
                values.push((value.as_bytes().to_vec(), values.len()));
                Ok(())
            }
            _ => Err("a value belongs behind a category".to_string()),
        };
    }
    let mut words = line.split_whitespace();
    let kind = match words.next() {
        None => return Ok(()),
        Some(w) if w.starts_with('#') => return Ok(()),
        Some(w) => w,
    };
    let name = words.next().ok_or_else(|| format!("{kind:?} lacks a name"))?;
    match kind {
        "output" => {
            if !table.output.is_empty() {
                return Err("there is an output already".to_string());
            }
            table.output = name.to_string();
            table.integers = match words.next() {
                Some("FP32") => false,
                Some("INT64") => true,
                _ => return Err("an output is FP32 or INT64".to_string()),
            };
            words.next().map_or(Ok(()), |w| Err(format!("{w:?} is not understood")))
        }
        "missing" => {
            table.missing.push(name.as_bytes().to_vec());
            words.next().map_or(Ok(()), |w| Err(format!("{w:?} is not understood")))
        }
        "number" | "category" => {
            if table.columns.len() == MAX_COLUMNS {
                return Err(format!("there are more than {MAX_COLUMNS} columns"));
            }
            if table.columns.iter().any(|c| c.name == name) {
                return Err(format!("there is a column {name:?} already"));
            }
            table.columns.push(column(kind == "number", name, words)?);
            Ok(())
        }
        _ => Err(format!("{kind:?} is not understood")),
    }
}

fn column<'a>(is_number: bool, name: &str, words: impl Iterator<Item = &'a str>) -> Result<Column, String> {
    let (mut flag, mut drift, mut one_hot) = (false, false, None);
    let (mut missing, mut unknown, mut mean, mut std) = (None, None, None, None);
    for word in words {
        let (key, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        let number = match value {
            None => None,
            Some(v) => match v.parse::<f64>() {
                Ok(x) if x.is_finite() => Some(x),
                _ => return Err(format!("{word:?} has no number")),
            },
        };
        match (key, number, is_number) {
            ("flag", None, _) => flag = true,
            ("drift", None, _) => drift = true,
            ("missing", Some(_), _) => missing = number,
            ("mean", Some(_), true) => mean = number,
            ("std", Some(x), true) if x > 0.0 => std = number,
            ("std", Some(_), true) => return Err("std must be above 0".to_string()),
            ("one-hot", None, false) => one_hot = Some(true),
            ("index", None, false) => one_hot = Some(false),
            ("unknown", Some(_), false) => unknown = number,
            _ => return Err(format!("{word:?} is not understood here")),
        }
    }
    let kind = if is_number {
        Kind::Number { missing, mean: mean.unwrap_or(0.0), std: std.unwrap_or(1.0) }
    } else {
        let one_hot = one_hot.ok_or("a category is one-hot or index")?;
        if one_hot && (unknown.is_some() || missing.is_some()) {
            return Err("one-hot has no numbers for unknown and missing values".to_string());
        }
        Kind::Category { values: vec![], one_hot, unknown, missing }
    };
    // The place of the flag follows when all values are known.
    Ok(Column { name: name.to_string(), at: 0, flag: flag.then(|| 0), drift, kind })
}

/// Gives each column its place in the matrix.
fn lay_out(table: &mut Table) -> Result<(), String> {
    for c in &mut table.columns {
        c.at = table.width;
        table.width += match &mut c.kind {
            Kind::Number { missing, mean, std } => {
                let whole = missing.map_or(true, |m| m.fract() == 0.0);
                if table.integers && (!whole || *mean != 0.0 || *std != 1.0) {
                    return Err(format!("column {:?}: an INT64 output cannot be scaled, nor hold a fraction", c.name));
                }
                1
            }
            Kind::Category { values, one_hot, unknown, missing } => {
                if values.is_empty() {
                    return Err(format!("category {:?} has no values", c.name));
                }
                if table.integers && [&*unknown, &*missing].iter().any(|m| m.map_or(false, |m| m.fract() != 0.0)) {
                    return Err(format!("column {:?}: an INT64 output cannot hold a fraction", c.name));
                }
                values.sort();
                if let Some(w) = values.windows(2).find(|w| w[0].0 == w[1].0) {
                    return Err(format!("category {:?} has {:?} twice", c.name, String::from_utf8_lossy(&w[0].0)));
                }
                if *one_hot {
                    values.len()
                } else {
                    1
                }
            }
        };
        if c.flag.is_some() {
            c.flag = Some(table.width);
            table.width += 1;
        }
        if table.width > MAX_WIDTH {
            return Err(format!("the matrix has more than {MAX_WIDTH} columns"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_get_their_places() {
        let text =
            "# c\r\noutput x FP32\n\nmissing NA\nnumber a mean=1 std=2 flag drift\ncategory b one-hot\n= z\n= a b \nnumber c";
        let t = parse(text.as_bytes()).unwrap();
        assert_eq!((t.output.as_str(), t.integers, t.width), ("x", false, 5));
        assert_eq!(t.missing, [&b""[..], b"NA"]);
        assert_eq!(t.columns.iter().map(|c| (c.at, c.flag)).collect::<Vec<_>>(), [(0, Some(1)), (2, None), (4, None)]);
        match &t.columns[1].kind {
            Kind::Category { values, .. } => assert_eq!(values, &[(b"a b ".to_vec(), 1), (b"z".to_vec(), 0)]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, want) in [
            ("", "no line \"output"),
            ("output x FP32", "names no column"),
            ("output x FP64", "line 1: an output is FP32 or INT64"),
            ("output x FP32\noutput y FP32", "line 2: there is an output already"),
            ("output x FP32 now", "\"now\" is not understood"),
            ("output", "\"output\" lacks a name"),
            ("columns a", "\"columns\" is not understood"),
            ("= a", "a value belongs behind a category"),
            ("output x FP32\nnumber a\n= b", "line 3: a value belongs"),
            ("number a std=0", "std must be above 0"),
            ("number a mean=nan", "\"mean=nan\" has no number"),
            ("number a mean", "\"mean\" is not understood here"),
            ("number a unknown=1", "\"unknown=1\" is not understood here"),
            ("number a\nnumber a", "line 2: there is a column \"a\" already"),
            ("category a", "a category is one-hot or index"),
            ("category a one-hot unknown=1", "one-hot has no numbers"),
            ("output x FP32\ncategory a index", "category \"a\" has no values"),
            ("output x FP32\ncategory a index\n= v\n= w\n= v", "has \"v\" twice"),
            ("output x INT64\nnumber a mean=1", "cannot be scaled"),
            ("output x INT64\nnumber a missing=.5", "cannot be scaled, nor hold a fraction"),
            ("output x INT64\ncategory a index unknown=.5\n= b", "cannot hold a fraction"),
        ] {
            let got = parse(text.as_bytes()).unwrap_err();
            assert!(got.contains(want), "{text:?}: {got}");
        }
        assert!(parse(b"output \xff FP32").unwrap_err().contains("UTF-8"));
    }
}
