//! What an ELF file says that its program needs (System V ABI, chapters 4 and 5).

use std::fs::File;
use std::os::unix::fs::FileExt;

use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use elf::dynamic::DynamicTable;
use elf::endian::AnyEndian;
use elf::file::{FileHeader, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};
use elf::string_table::StringTable;

/// Largest header, with what identifies the file.
const HEADER_BYTES: usize = 64;
/// Most bytes of program headers, of a dynamic section and of names that are looked at.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// Most libraries, and most directories to look for them in, that one file may name.
const MAX_LIBRARIES: usize = 256;
const MAX_RUN_PATHS: usize = 32;
/// Longest name of either, in bytes.
const MAX_NAME_BYTES: usize = 4096;

/// What a program needs to begin.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Its loader.
    pub(super) interpreter: Option<String>,
    /// Libraries, by name or by path.
    pub(super) libraries: Vec<String>,
    /// Directories in which they are to be looked for first.
    pub(super) run_paths: Vec<String>,
}

/// Reads what a file needs. None if it isn't an ELF file, or not one that makes sense.
pub(super) fn needs(file: &File) -> Option<Needs> {
    let start = read(file, 0, HEADER_BYTES as u64)?;
    let (ident, tail) = start.split_at_checked(elf::abi::EI_NIDENT)?;
    let header = FileHeader::parse_tail(parse_ident::<AnyEndian>(ident).ok()?, tail).ok()?;
    let bytes = u64::from(header.e_phnum) * u64::from(header.e_phentsize);
    let table = read(file, header.e_phoff, bytes)?;
    let segments = SegmentTable::new(header.endianness, header.class, &table);
    let interpreter = segments.iter().find(|segment| segment.p_type == PT_INTERP).and_then(|segment| {
        let bytes = read(file, segment.p_offset, segment.p_filesz)?;
        Some(StringTable::new(&bytes).get(0).ok()?.to_owned())
    });
    let linked = segments.iter().find(|segment| segment.p_type == PT_DYNAMIC).and_then(|dynamic| {
        let bytes = read(file, dynamic.p_offset, dynamic.p_filesz)?;
        let entries = DynamicTable::new(header.endianness, header.class, &bytes);
        let value = |tag| entries.iter().find(|entry| entry.d_tag == tag).map(|entry| entry.d_val());
        let names = read(file, offset_of(&segments, value(DT_STRTAB)?)?, value(DT_STRSZ)?)?;
        let names = StringTable::new(&names);
        let named = |tag| {
            let tagged = entries.iter().filter(move |entry| entry.d_tag == tag);
            let texts = tagged.filter_map(|entry| names.get(usize::try_from(entry.d_val()).ok()?).ok());
            texts.filter(|text| text.len() <= MAX_NAME_BYTES)
        };
        let libraries = named(DT_NEEDED).take(MAX_LIBRARIES).map(str::to_owned).collect();
        let paths = named(DT_RPATH).chain(named(DT_RUNPATH)).flat_map(|list| list.split(':'));
        Some((libraries, paths.take(MAX_RUN_PATHS).map(str::to_owned).collect()))
    });
    let (libraries, run_paths) = linked.unwrap_or_default();
    Some(Needs { interpreter, libraries, run_paths })
}

/// Where in the file an address of the loaded program is.
fn offset_of(segments: &SegmentTable<'_, AnyEndian>, address: u64) -> Option<u64> {
    let holds = |segment: &ProgramHeader| {
        segment.p_type == PT_LOAD && address.checked_sub(segment.p_vaddr).is_some_and(|into| into < segment.p_filesz)
    };
    let segment = segments.iter().find(holds)?;
    segment.p_offset.checked_add(address - segment.p_vaddr)
}

/// A part of the file, if there is all of it.
fn read(file: &File, offset: u64, bytes: u64) -> Option<Vec<u8>> {
    if bytes > MAX_TABLE_BYTES {
        return None;
    }
    let mut part = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut part, offset).ok()?;
    Some(part)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn needs_of(bytes: &[u8]) -> Option<Needs> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        needs(&file)
    }

    fn this_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn a_program_names_its_loader_and_libraries() {
        let needs = needs_of(&std::fs::read("/bin/sh").unwrap()).unwrap();
        assert!(needs.interpreter.unwrap().starts_with("/lib"));
        assert!(needs.libraries.iter().any(|library| library.starts_with("libc.")), "{:?}", needs.libraries);
    }

    #[test]
    fn what_is_no_program_needs_nothing() {
        assert!(needs_of(b"").is_none());
        assert!(needs_of(b"#!/bin/sh\nexit 0\n").is_none());
        assert!(needs_of(&[0; 4096]).is_none());
    }

    #[test]
    fn a_damaged_program_is_no_danger() {
        let good = this_program();
        let head = good.len().min(4096);
        for position in 0..head {
            let mut damaged = good[..head].to_vec();
            damaged[position] ^= 0xff;
            drop(needs_of(&damaged));
        }
        for length in (0..head).step_by(7) {
            drop(needs_of(&good[..length]));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_no_danger(body: Vec<u8>) {
            drop(needs_of(&[&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0], body.as_slice()].concat()));
        }
    }
}
