//! Headers of an archive, and the records before them.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{ArchiveError, BLOCK};

/// A header's fields for names hold this many bytes; longer ones go into records.
const NAME_FIELD: usize = 100;
/// Most seconds that a header's time can say.
const MAX_SECONDS: i64 = 0o77_777_777_777;
/// More than the records of any file: an attribute has 64 KiB at most, and a file's have little more together.
const MAX_RECORDS_BYTES: u64 = 16 << 20;

/// A moment: seconds since 1970, and nanoseconds after them.
pub(super) type Moment = (i64, u32);

/// What an archive says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    /// What a link leads to.
    pub(super) target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Moment,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    /// Bytes that follow in the archive.
    pub(super) length: u64,
    /// Size of a file that begins with a map of its holes.
    pub(super) sparse: Option<u64>,
    /// Further records: attributes.
    pub(super) records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// The entry's blocks, up to where its data begins.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut records = Vec::new();
        let mut add = |key: &str, value: &[u8]| records.extend(record(key, value));
        if let Some(size) = self.sparse {
            add("GNU.sparse.major", b"1");
            add("GNU.sparse.minor", b"0");
            add("GNU.sparse.name", &self.name);
            add("GNU.sparse.realsize", size.to_string().as_bytes());
        } else if self.name.len() > NAME_FIELD {
            add("path", &self.name);
        }
        if self.target.len() > NAME_FIELD {
            add("linkpath", &self.target);
        }
        let (seconds, nanoseconds) = self.modified;
        if nanoseconds != 0 || !(0..=MAX_SECONDS).contains(&seconds) {
            add("mtime", decimal(self.modified).as_bytes());
        }
        self.records.iter().for_each(|(key, value)| add(key, value));
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o600);
            header.set_size(records.len() as u64);
            header.set_cksum();
            blocks.extend_from_slice(header.as_bytes());
            records.resize(records.len().next_multiple_of(BLOCK), 0);
            blocks.append(&mut records);
        }
        blocks.extend_from_slice(self.header()?.as_bytes());
        Ok(blocks)
    }

    fn header(&self) -> io::Result<Header> {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        fill(&mut header.as_old_mut().name, &self.name);
        fill(&mut header.as_old_mut().linkname, &self.target);
        header.set_mode(self.mode);
        header.set_uid(self.uid.into());
        header.set_gid(self.gid.into());
        header.set_mtime(self.modified.0.clamp(0, MAX_SECONDS).cast_unsigned());
        header.set_size(self.length);
        header.set_device_major(self.device.0)?;
        header.set_device_minor(self.device.1)?;
        header.set_cksum();
        Ok(header)
    }

    /// Reads the next entry up to where its data begins; none at the archive's end.
    pub(super) fn decode(input: &mut impl Read) -> Result<Option<Self>, ArchiveError> {
        let mut records = Vec::new();
        loop {
            let mut block = [0; BLOCK];
            input.read_exact(&mut block).map_err(ArchiveError::Read)?;
            if block == [0; BLOCK] {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            let damaged = |_error: io::Error| ArchiveError::Damaged("a header that isn't one");
            check_sum(header, &block)?;
            let length = header.entry_size().map_err(damaged)?;
            if header.entry_type() == EntryType::XHeader {
                records = read_records(input, length)?;
                continue;
            }
            let id = |id: io::Result<u64>| {
                u32::try_from(id.map_err(damaged)?).map_err(|_large| ArchiveError::Damaged("an impossible owner"))
            };
            let entry = Self {
                kind: header.entry_type(),
                name: header.path_bytes().into_owned(),
                target: header.link_name_bytes().unwrap_or_default().into_owned(),
                mode: header.mode().map_err(damaged)? & 0o7777,
                uid: id(header.uid())?,
                gid: id(header.gid())?,
                modified: (header.mtime().map_err(damaged)?.cast_signed(), 0),
                device: device(header).map_err(damaged)?,
                length,
                sparse: None,
                records: Vec::new(),
            };
            return entry.with_records(records).map(Some);
        }
    }

    /// What records say goes before what the header says.
    fn with_records(mut self, records: Vec<(String, Vec<u8>)>) -> Result<Self, ArchiveError> {
        const WRONG: ArchiveError = ArchiveError::Damaged("a record that isn't a number");
        let number =
            |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()).ok_or(WRONG);
        let id = |value: &[u8]| u32::try_from(number(value)?).map_err(|_large| WRONG);
        for (key, value) in records {
            match key.as_str() {
                "path" | "GNU.sparse.name" => self.name = value,
                "linkpath" => self.target = value,
                "uid" => self.uid = id(&value)?,
                "gid" => self.gid = id(&value)?,
                "size" => self.length = number(&value)?,
                "mtime" => self.modified = moment(&value).ok_or(WRONG)?,
                "GNU.sparse.realsize" => self.sparse = Some(number(&value)?),
                _ => self.records.push((key, value)),
            }
        }
        Ok(self)
    }
}

/// Whatever isn't a device may leave the fields empty, and has none in GNU tar's archives from 1.35 on.
fn device(header: &Header) -> io::Result<(u32, u32)> {
    if !matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
        return Ok((0, 0));
    }
    Ok((header.device_major()?.unwrap_or_default(), header.device_minor()?.unwrap_or_default()))
}

fn check_sum(header: &Header, block: &[u8; BLOCK]) -> Result<(), ArchiveError> {
    // The field itself counts as spaces.
    let sum =
        block.iter().enumerate().map(|(place, byte)| if (148..156).contains(&place) { 32 } else { u32::from(*byte) });
    match header.cksum() {
        Ok(noted) if noted == sum.sum::<u32>() => Ok(()),
        _ => Err(ArchiveError::Damaged("a header whose sum is wrong")),
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn read_records(input: &mut impl Read, length: u64) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
    if length > MAX_RECORDS_BYTES {
        return Err(ArchiveError::Damaged("records that are too long"));
    }
    let mut bytes = vec![0; (length as usize).next_multiple_of(BLOCK)];
    input.read_exact(&mut bytes).map_err(ArchiveError::Read)?;
    let mut rest = bytes.get(..length as usize).unwrap_or_default();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (record, after) = split_record(rest).ok_or(ArchiveError::Damaged("a record that isn't one"))?;
        records.push(record);
        rest = after;
    }
    Ok(records)
}

type Record = (String, Vec<u8>);

fn split_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(text.get(..equals)?).ok()?;
    Some(((key.to_owned(), text.get(equals + 1..)?.to_vec()), rest))
}

/// A moment as a decimal fraction, which for one before 1970 counts backwards as a whole.
fn decimal((seconds, nanoseconds): Moment) -> String {
    match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        (true, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    }
}

fn moment(value: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    if whole.starts_with('-') && nanoseconds != 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn fill(field: &mut [u8; NAME_FIELD], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record("a", b"b"), b"6 a=b\n");
        // 100 bytes with a length of three digits; with two it would have 99.
        assert_eq!(record("key", &[b'x'; 92]).len(), 101);
        assert_eq!(record("key", &[b'x'; 91]).len(), 99);
        let two = [record("k", b"a\nb=\0"), record("l", b"")].concat();
        let (first, rest) = split_record(&two).unwrap();
        assert_eq!(first, ("k".to_owned(), b"a\nb=\0".to_vec()));
        assert_eq!(split_record(rest).unwrap(), (("l".to_owned(), Vec::new()), &b""[..]));
        assert_eq!(split_record(b"99 a=b\n"), None);
    }

    #[test]
    fn moments_before_1970_are_moments_too() {
        for (time, text) in [
            ((5, 0), "5"),
            ((5, 120_000_000), "5.120000000"),
            ((-1, 500_000_000), "-0.500000000"),
            ((-3, 999_999_999), "-2.000000001"),
        ] {
            assert_eq!(decimal(time), text);
            assert_eq!(moment(text.as_bytes()), Some(time));
        }
        assert_eq!(moment(b"1.25"), Some((1, 250_000_000)));
        assert_eq!(moment(b"x"), None);
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let entry = Entry {
            kind: EntryType::Regular,
            name: b"name".to_vec(),
            target: Vec::new(),
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            modified: (-7, 3),
            device: (0, 0),
            length: 9 << 30,
            sparse: None,
            records: vec![("SCHILY.xattr.user.x".to_owned(), b"\n\0=".to_vec())],
        };
        let mut bytes = entry.encode().unwrap();
        assert_eq!(Entry::decode(&mut bytes.as_slice()).unwrap(), Some(entry));
        let last = bytes.len() - BLOCK;
        let mut bare = Header::from_byte_slice(&bytes[last..]).clone();
        let ustar = bare.as_ustar_mut().unwrap();
        (ustar.dev_major, ustar.dev_minor) = ([0; 8], [0; 8]);
        bare.set_cksum();
        assert_eq!(Entry::decode(&mut &bare.as_bytes()[..]).unwrap().unwrap().device, (0, 0));
        bytes[last] ^= 1;
        assert!(matches!(Entry::decode(&mut bytes.as_slice()), Err(ArchiveError::Damaged(_))));
        assert!(matches!(Entry::decode(&mut &bytes[..700]), Err(ArchiveError::Read(_))));
    }
}
