//! The chunked transfer coding (RFC 9112, section 7.1), without I/O.
//!
//! The decoder walks over framing bytes and says where data lies; it holds no data. It is strict:
//! sizes are plain hexadecimal digits, lines end in CRLF, extensions are bounded and dropped. The
//! trailer section behind the last chunk is left to `parse::trailers`.

/// Extensions are never used; a few bytes are enough for those who send them.
const EXTENSION_BYTES_MAX: u32 = 256;

/// All extensions of one body together, so that they cannot be the traffic.
const EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;

/// Digits of a size: more cannot be needed.
const DIGITS_MAX: u8 = 16;

/// Reads chunk framing.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    size: u64,
    digits: u8,
    extension: u32,
    extensions: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Last,
}

/// What stands behind the framing bytes that were walked over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// So many bytes of data; the decoder counts them as taken.
    Data(usize),
    /// The end of the input.
    More,
    /// The trailer section.
    Trailers,
}

/// The framing is not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

// === impl Decoder ===

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size, size: 0, digits: 0, extension: 0, extensions: 0 }
    }
}

impl Decoder {
    /// Walks on: how many framing bytes to drop, and what follows them.
    pub fn advance(&mut self, input: &[u8]) -> Result<(usize, Event), Malformed> {
        let mut at = 0;
        loop {
            if self.state == State::Last {
                return Ok((at, Event::Trailers));
            }
            let Some(byte) = input.get(at).copied() else { return Ok((at, Event::More)) };
            if self.state == State::Data {
                let available = (input.len() - at) as u64;
                let count = self.size.min(available);
                self.size -= count;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                return Ok((at, Event::Data(count as usize)));
            }
            self.state = self.step(byte)?;
            at += 1;
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeLineFeed),
            (State::Size, b';') if self.digits > 0 => Ok(State::Extension),
            (State::Size, _) => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                self.digits += 1;
                if self.digits > DIGITS_MAX || self.size >> 59 != 0 {
                    return Err(Malformed);
                }
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
            (State::Extension, b'\r') => Ok(State::SizeLineFeed),
            (State::Extension, _) if !crate::http::is_value_byte(byte) => Err(Malformed),
            (State::Extension, _) => {
                self.extension += 1;
                self.extensions += 1;
                let within = self.extension <= EXTENSION_BYTES_MAX && self.extensions <= EXTENSIONS_BYTES_MAX;
                if within { Ok(State::Extension) } else { Err(Malformed) }
            }
            (State::SizeLineFeed, b'\n') => {
                self.digits = 0;
                self.extension = 0;
                Ok(if self.size == 0 { State::Last } else { State::Data })
            }
            (State::DataReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => Ok(State::Size),
            _ => Err(Malformed),
        }
    }
}
