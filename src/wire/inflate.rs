//! gzip (RFC 1952) and deflate (RFC 1950, RFC 1951) for [`super::encoding`]: the parts of gzip's members, and
//! what tells zlib from bare deflate. The inflating itself is a library's.

use flate2::{Decompress, FlushDecompress, Status};

use super::encoding::{Step, Stop};

/// A stream of deflate.
#[derive(Debug)]
pub(super) enum Inflate {
    /// Nothing has come: the first byte tells zlib from bare deflate, where it would begin a stored block that
    /// is padded with ones.
    Unknown,
    Running(Box<Decompress>),
    Ended,
}

impl Inflate {
    /// Bare deflate, whatever its first byte.
    pub(super) fn bare() -> Self {
        Self::Running(Box::new(Decompress::new(false)))
    }

    /// Begins anew as bare deflate; `afresh`: also where what came has not ended.
    pub(super) fn restart(&mut self, afresh: bool) {
        match self {
            Self::Running(inflate) if afresh => inflate.reset(false),
            Self::Running(_) => {}
            Self::Unknown | Self::Ended => *self = Self::bare(),
        }
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Stop> {
        if matches!(self, Self::Unknown) {
            let Some(first) = input.first() else { return Ok(Step::default()) };
            *self = Self::Running(Box::new(Decompress::new(first & 0x0F == 8)));
        }
        let Self::Running(inflate) = self else { return Ok(Step { ended: true, ..Step::default() }) };
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|_| Stop::Undecodable)?;
        let since = |total: u64, before: u64| usize::try_from(total - before).unwrap_or_default();
        let step = Step {
            read: since(inflate.total_in(), read),
            written: since(inflate.total_out(), written),
            ended: status == Status::StreamEnd,
        };
        if step.ended {
            *self = Self::Ended;
        }
        Ok(step)
    }
}

/// Members of gzip, one after the other.
#[derive(Debug)]
pub(super) struct Gzip {
    part: Part,
    flags: u8,
    inflate: Inflate,
    /// A member has ended.
    any: bool,
}

/// Where in a member it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// So many bytes into the part of the header that is always there.
    Head(u8),
    ExtraLength,
    ExtraLengthHigh(u8),
    Extra(u16),
    Name,
    Comment,
    /// So many bytes of the header's checksum are to come.
    HeadChecksum(u8),
    Body,
    /// So many bytes of the checksum and the length are to come.
    Tail(u8),
    /// What follows is no member.
    Ended,
}

impl Default for Gzip {
    fn default() -> Self {
        Self { part: Part::Head(0), flags: 0, inflate: Inflate::Ended, any: false }
    }
}

impl Gzip {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const CHECKSUM: u8 = 2;
    const RESERVED: u8 = 0xE0;

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Stop> {
        let mut read = 0;
        for byte in input {
            match self.part {
                Part::Body => break,
                Part::Ended => return Ok(Step { read, written: 0, ended: true }),
                part => self.part = self.byte(part, *byte)?,
            }
            read += 1;
        }
        if self.part != Part::Body {
            return Ok(Step { read, written: 0, ended: self.part == Part::Ended });
        }
        let inner = self.inflate.step(input.get(read..).unwrap_or_default(), output)?;
        if inner.ended {
            self.part = Part::Tail(8);
        }
        Ok(Step { read: read + inner.read, written: inner.written, ended: false })
    }

    /// Reads a byte outside the body; gives the part that follows.
    fn byte(&mut self, part: Part, byte: u8) -> Result<Part, Stop> {
        Ok(match part {
            Part::Head(0) if byte != 0x1F && self.any => Part::Ended,
            Part::Head(0) if byte != 0x1F => return Err(Stop::Undecodable),
            Part::Head(1) if byte != 0x8B => return Err(Stop::Undecodable),
            Part::Head(2) if byte != 8 => return Err(Stop::Undecodable),
            Part::Head(3) if byte & Self::RESERVED != 0 => return Err(Stop::Undecodable),
            Part::Head(at @ ..9) => {
                if at == 3 {
                    self.flags = byte;
                }
                Part::Head(at + 1)
            }
            Part::Head(_) => self.after(Self::EXTRA),
            Part::ExtraLength => Part::ExtraLengthHigh(byte),
            Part::ExtraLengthHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.after(Self::NAME),
                length => Part::Extra(length),
            },
            Part::Extra(left @ 2..) => Part::Extra(left - 1),
            Part::Extra(_) => self.after(Self::NAME),
            Part::Name if byte == 0 => self.after(Self::COMMENT),
            Part::Comment if byte == 0 => self.after(Self::CHECKSUM),
            Part::HeadChecksum(2) => Part::HeadChecksum(1),
            Part::HeadChecksum(_) => self.after(0),
            Part::Tail(left @ 2..) => Part::Tail(left - 1),
            Part::Tail(_) => {
                self.any = true;
                Part::Head(0)
            }
            same @ (Part::Name | Part::Comment | Part::Body | Part::Ended) => same,
        })
    }

    /// The first part of the header that is there, from this one on; the body after the last.
    fn after(&mut self, first: u8) -> Part {
        let order = [
            (Self::EXTRA, Part::ExtraLength),
            (Self::NAME, Part::Name),
            (Self::COMMENT, Part::Comment),
            (Self::CHECKSUM, Part::HeadChecksum(2)),
        ];
        let from = order.iter().position(|(flag, _)| *flag == first).unwrap_or(order.len());
        let there = order.iter().skip(from).find(|(flag, _)| self.flags & flag != 0);
        there.map_or_else(
            || {
                self.inflate = Inflate::bare();
                Part::Body
            },
            |(_, part)| *part,
        )
    }
}
