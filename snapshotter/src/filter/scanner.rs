//! Words of the filter language.

use super::FilterError;

/// A place in a filter's text. Spaces before a word are skipped.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_spaces();
        self.rest().is_empty()
    }

    pub(super) fn expected(&self, expected: &'static str) -> FilterError {
        FilterError::Expected { at: self.at, expected }
    }

    /// Moves past `word` if it comes next.
    pub(super) fn take(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// One part of a field path: a word of letters, digits and `_`, or a quoted one.
    pub(super) fn field(&mut self) -> Result<String, FilterError> {
        self.skip_spaces();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        match self.run(|c| c == '_' || c.is_ascii_alphanumeric()) {
            "" => Err(self.expected("a field")),
            word => Ok(word.to_owned()),
        }
    }

    /// What stands after an operator. `pattern` also allows the quotes `/` and `|`.
    pub(super) fn value(&mut self, pattern: bool) -> Result<String, FilterError> {
        self.skip_spaces();
        match self.rest().chars().next() {
            Some('"') => return self.quoted(),
            Some('/' | '|') if pattern => return self.quoted(),
            Some('/' | '|') => return Err(self.expected("a value without quotes or in double quotes")),
            _ => {}
        }
        match self.run(|c| c != ',' && !c.is_whitespace() && !c.is_control()) {
            "" => Err(self.expected("a value")),
            word => Ok(word.to_owned()),
        }
    }

    /// A text between two equal quotes, with the escapes of a Go string.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let start = self.at;
        let mut characters = self.rest().char_indices();
        let Some((_, quote)) = characters.next() else { return Err(self.expected("a quote")) };
        let mut bytes = Vec::new();
        while let Some((offset, character)) = characters.next() {
            match character {
                '\n' => break,
                '\\' => {
                    let escape = escape(&mut characters, quote);
                    escape.ok_or(FilterError::Escape { at: start + offset })?.append_to(&mut bytes);
                }
                _ if character == quote => {
                    self.at = start + offset + quote.len_utf8();
                    return String::from_utf8(bytes).map_err(|_invalid| FilterError::Escape { at: start });
                }
                _ => Escape::Character(character).append_to(&mut bytes),
            }
        }
        Err(FilterError::Unclosed { at: start })
    }
}

enum Escape {
    Character(char),
    Byte(u8),
}

impl Escape {
    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Byte(byte) => bytes.push(*byte),
            Self::Character(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// What follows a backslash.
fn escape(characters: &mut std::str::CharIndices<'_>, quote: char) -> Option<Escape> {
    let (_, first) = characters.next()?;
    let mut number = |first: u32, digits: usize, radix: u32| {
        (0..digits).try_fold(first, |number, _| {
            let (_, digit) = characters.next()?;
            number.checked_mul(radix)?.checked_add(digit.to_digit(radix)?)
        })
    };
    Some(match first {
        'a' => Escape::Byte(0x07),
        'b' => Escape::Byte(0x08),
        'f' => Escape::Byte(0x0c),
        'n' => Escape::Byte(b'\n'),
        'r' => Escape::Byte(b'\r'),
        't' => Escape::Byte(b'\t'),
        'v' => Escape::Byte(0x0b),
        '\\' => Escape::Byte(b'\\'),
        'x' => Escape::Byte(u8::try_from(number(0, 2, 16)?).ok()?),
        'u' => Escape::Character(char::from_u32(number(0, 4, 16)?)?),
        'U' => Escape::Character(char::from_u32(number(0, 8, 16)?)?),
        '0'..='7' => Escape::Byte(u8::try_from(number(first.to_digit(8)?, 2, 8)?).ok()?),
        _ if first == quote => Escape::Character(quote),
        _ => return None,
    })
}
