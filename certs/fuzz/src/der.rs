//! A notation for DER in which every edit is DER again.
//!
//! One value a line: its tag and its content, both hexadecimal, the content as `'text'` where it is text. What lies
//! within a value stands below it, one space further in. Lengths are not written, so no edit can make them wrong, and a
//! body meets what is behind the outer syntax:
//!
//! ```text
//! 31
//!  30
//!   06 550403
//!   0c 'remote-a'
//! ```

use std::iter::Peekable;

/// A value: its tag, its own content, and the indentation of its line.
struct Line {
    depth: usize,
    tag: u8,
    content: Vec<u8>,
}

/// The bytes that a text describes. Any text describes some: a line that is none is ignored.
pub fn assemble(text: &[u8]) -> Vec<u8> {
    let mut lines = text.split(|b| *b == b'\n').filter_map(Line::read).peekable();
    let mut der = Vec::new();
    while lines.peek().is_some() {
        der.extend(below(&mut lines, 0));
    }
    der
}

/// A value of a tag and a content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    let mut der = vec![tag];
    match length.as_slice() {
        [] => der.push(0),
        [short @ 0..=0x7f] => der.push(*short),
        long => {
            der.push(long.iter().fold(0x80, |count, _| count + 1));
            der.extend(long);
        }
    }
    der.extend(content);
    der
}

/// The text that describes some bytes; none if they are not DER.
pub fn disassemble(der: &[u8]) -> Option<String> {
    let mut text = String::new();
    write(der, 0, &mut text)?;
    Some(text)
}

/// Takes a value and what is within it.
fn below(lines: &mut Peekable<impl Iterator<Item = Line>>, depth: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Line { depth: found, tag, mut content }) =
        lines.next_if(|line| line.depth >= depth)
    {
        content.extend(below(lines, found + 1));
        all.extend(value(tag, &content));
    }
    all
}

fn write(mut der: &[u8], depth: usize, text: &mut String) -> Option<()> {
    while let Some((tag, rest)) = der.split_first() {
        let (content, rest) = content(rest)?;
        der = rest;
        text.push_str(&" ".repeat(depth));
        text.push_str(&format!("{tag:02x}"));
        // The bit for values within it, or an octet string that holds some.
        let holds_values = tag & 0x20 != 0 || *tag == 0x04;
        let mut within = String::from("\n");
        if holds_values && write(content, depth + 1, &mut within).is_some() {
            text.push_str(&within);
            continue;
        }
        match std::str::from_utf8(content) {
            Ok(word)
                if !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && b != b'\'') =>
            {
                text.push_str(&format!(" '{word}'"));
            }
            _ => {
                text.push(' ');
                content.iter().for_each(|b| text.push_str(&format!("{b:02x}")));
            }
        }
        text.push('\n');
    }
    Some(())
}

/// The content behind a length, and what follows it.
fn content(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let count = usize::from(first.checked_sub(0x80).unwrap_or_default());
    let (length, rest) = rest.split_at_checked(count)?;
    let length = match count {
        0 => usize::from(*first),
        1..=4 => length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)),
        _ => return None,
    };
    rest.split_at_checked(length)
}

impl Line {
    fn read(line: &[u8]) -> Option<Self> {
        let depth = line.iter().position(|b| *b != b' ')?;
        let (tag, content) = line.split_at(depth).1.split_at_checked(2)?;
        let [tag] = hex(tag)[..] else { return None };
        let mut quoted = content.split(|b| *b == b'\'').skip(1);
        let content = quoted.next().map_or_else(|| hex(content), <[u8]>::to_vec);
        Some(Self { depth, tag, content })
    }
}

fn hex(text: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = text
        .iter()
        .filter_map(|b| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | digit)).collect()
}
