//! The list that goes back, written in place.

use crate::list::{count, Datatype, Element};
use crate::{bounds, Error};

/// The answer that a step builds, tensor by tensor. What a method returns lies in the buffer that the host reads.
#[derive(Debug, Default)]
pub struct Response {
    words: Vec<u64>,  // the answer, and in a batch those before it
    base: usize,      // the word at which the list begins
    names: Vec<Name>, // of the list
}

#[derive(Debug)]
struct Name {
    start: usize, // byte offset into words
    len: usize,
}

/// How many bytes of a buffer are kept for the next request.
pub(crate) const KEEP: usize = 1 << 20;

impl Response {
    /// An answer without tensors. The kit makes those that go to the host; this is for tests of a step.
    pub fn new() -> Response {
        let mut r = Response::empty();
        r.begin();
        r
    }

    pub(crate) const fn empty() -> Response {
        Response { words: Vec::new(), base: 0, names: Vec::new() }
    }

    /// Adds a tensor of zeros and returns its elements, to be filled.
    pub fn values<T: Element>(&mut self, name: impl AsRef<[u8]>, shape: &[u64]) -> Result<&mut [T], Error> {
        let name = name.as_ref();
        let elements = self.check(name, shape)?;
        let size = elements.checked_mul(T::DATATYPE.size() as u64).filter(|&n| n <= bounds::LIST as u64);
        let size = size.ok_or_else(|| too_long(name))? as usize;
        let head = self.head(name, T::DATATYPE, shape)?;
        let data = match self.room(size, name) {
            Ok(data) => data,
            Err(e) => return Err(self.undo(head, e)),
        };
        self.words[head] |= (size as u64) << 32;
        // SAFETY: the words of the data are there and zero, they are aligned to 8, and any bits are a T. size is a
        // whole number of elements.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.words[data..].as_mut_ptr().cast(), elements as usize) })
    }

    /// Adds a BYTES tensor; fill must push as many elements as the shape has.
    pub fn bytes<F>(&mut self, name: impl AsRef<[u8]>, shape: &[u64], fill: F) -> Result<(), Error>
    where
        F: FnOnce(&mut BytesWriter<'_>) -> Result<(), Error>,
    {
        let name = name.as_ref();
        let elements = self.check(name, shape)?;
        let head = self.head(name, Datatype::Bytes, shape)?;
        let start = self.words.len() * 8;
        let mut writer = BytesWriter { words: &mut self.words, start, len: 0, count: 0 };
        let filled = fill(&mut writer);
        let (len, pushed) = (writer.len, writer.count);
        let filled = filled.and_then(|()| {
            if pushed != elements {
                return Err(Error::Step(format!("tensor {} of {shape:?} was given {pushed} elements", quoted(name))));
            }
            self.fits(name)
        });
        if let Err(e) = filled {
            return Err(self.undo(head, e));
        }
        self.words[head] |= (len as u64) << 32;
        Ok(())
    }

    /// Takes back the tensor that begins at head, so that a step may go on after an error.
    fn undo(&mut self, head: usize, e: Error) -> Error {
        self.words.truncate(head);
        self.names.pop();
        e
    }

    fn check(&self, name: &[u8], shape: &[u64]) -> Result<u64, Error> {
        let problem = if name.is_empty() || name.len() > bounds::NAME {
            format!("tensor {} has a name of {} bytes, 1 to {} are allowed", quoted(name), name.len(), bounds::NAME)
        } else if self.names.len() == bounds::TENSORS {
            format!("list has more than {} tensors", bounds::TENSORS)
        } else if shape.len() > bounds::RANK {
            format!("tensor {} has {} dimensions, at most {} are allowed", quoted(name), shape.len(), bounds::RANK)
        } else if self.names.iter().any(|n| &as_bytes(&self.words)[n.start..n.start + n.len] == name) {
            format!("tensor name {} occurs twice", quoted(name))
        } else {
            match count(shape) {
                Some(n) => return Ok(n),
                None => format!("tensor {}: {shape:?} is no shape", quoted(name)),
            }
        };
        Err(Error::Step(problem))
    }

    /// Writes what stands before the data and returns its first word, which still lacks the data's length.
    fn head(&mut self, name: &[u8], datatype: Datatype, shape: &[u64]) -> Result<usize, Error> {
        let head = self.words.len();
        let needed = 1 + shape.len() + words_of(name.len());
        self.words.try_reserve(needed).map_err(|_| no_room(name))?;
        self.words.push(u64::from(datatype as u8) | (shape.len() as u64) << 8 | (name.len() as u64) << 16);
        self.words.extend(shape);
        let start = self.words.len() * 8;
        self.words.resize(self.words.len() + words_of(name.len()), 0);
        as_bytes_mut(&mut self.words)[start..start + name.len()].copy_from_slice(name);
        self.names.push(Name { start, len: name.len() });
        Ok(head)
    }

    /// Adds n zero bytes, up to whole words, and returns the first word.
    fn room(&mut self, n: usize, name: &[u8]) -> Result<usize, Error> {
        let first = self.words.len();
        self.words.try_reserve_exact(words_of(n)).map_err(|_| no_room(name))?;
        self.words.resize(first + words_of(n), 0);
        self.fits(name)?;
        Ok(first)
    }

    fn fits(&self, name: &[u8]) -> Result<(), Error> {
        if (self.words.len() - self.base) * 8 > bounds::LIST {
            return Err(too_long(name));
        }
        Ok(())
    }

    // What follows is for the kit.

    /// Forgets everything, before an answer or a batch of them.
    pub(crate) fn clear(&mut self) {
        self.words.clear();
    }

    /// Gives a large buffer back, once the host has read it.
    pub(crate) fn shrink(&mut self) {
        self.words.clear();
        if self.words.capacity() * 8 > KEEP {
            self.words = Vec::new();
        }
    }

    /// Begins a list behind what is there.
    pub(crate) fn begin(&mut self) {
        self.base = self.words.len();
        self.words.push(0);
        self.names.clear();
    }

    /// Ends the list and returns its length in bytes.
    pub(crate) fn seal(&mut self) -> usize {
        let length = (self.words.len() - self.base) * 8;
        self.words[self.base] = self.names.len() as u64 | (length as u64) << 32;
        length
    }

    /// Puts a sentence in the place of the list and returns its length in bytes.
    pub(crate) fn fail(&mut self, sentence: &str) -> usize {
        let mut end = sentence.len().min(bounds::MESSAGE);
        while !sentence.is_char_boundary(end) {
            end -= 1;
        }
        self.words.truncate(self.base);
        self.words.resize(self.base + words_of(end), 0);
        as_bytes_mut(&mut self.words)[self.base * 8..][..end].copy_from_slice(&sentence.as_bytes()[..end]);
        end
    }

    /// Adds a word and returns its place.
    pub(crate) fn push(&mut self, word: u64) -> usize {
        self.words.push(word);
        self.words.len() - 1
    }

    pub(crate) fn set(&mut self, place: usize, word: u64) {
        self.words[place] = word;
    }

    pub(crate) fn len(&self) -> usize {
        self.words.len() * 8
    }

    pub(crate) fn as_ptr(&self) -> *const u64 {
        self.words.as_ptr()
    }

    /// The list as the host gets it, for tests of a step: `Request::parse(response.finish())`.
    pub fn finish(&mut self) -> &[u8] {
        let length = self.seal();
        &as_bytes(&self.words)[self.base * 8..][..length]
    }
}

/// Takes the elements of a BYTES tensor.
#[derive(Debug)]
pub struct BytesWriter<'a> {
    words: &'a mut Vec<u64>,
    start: usize, // byte offset of the data into words
    len: usize,
    count: u64,
}

impl BytesWriter<'_> {
    /// Adds an element.
    pub fn push(&mut self, element: impl AsRef<[u8]>) -> Result<(), Error> {
        let element = element.as_ref();
        let len = self.len + 4 + element.len();
        if len > bounds::LIST {
            return Err(Error::Step(format!("BYTES tensor is longer than {} bytes", bounds::LIST)));
        }
        let words = words_of(self.start + len);
        if self.words.try_reserve(words - self.words.len()).is_err() {
            return Err(Error::Step("there is no memory for another element".to_string()));
        }
        self.words.resize(words, 0);
        let at = &mut as_bytes_mut(self.words)[self.start + self.len..self.start + len];
        at[..4].copy_from_slice(&(element.len() as u32).to_le_bytes());
        at[4..].copy_from_slice(element);
        self.len = len;
        self.count += 1;
        Ok(())
    }
}

fn words_of(bytes: usize) -> usize {
    (bytes + 7) / 8
}

fn as_bytes(words: &[u64]) -> &[u8] {
    // SAFETY: the same memory, as bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
}

fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: the same memory, as bytes; any bits are a u64.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}

fn quoted(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

fn too_long(name: &[u8]) -> Error {
    Error::Step(format!("with tensor {} the list is longer than {} bytes", quoted(name), bounds::LIST))
}

fn no_room(name: &[u8]) -> Error {
    Error::Step(format!("there is no memory for tensor {}", quoted(name)))
}
