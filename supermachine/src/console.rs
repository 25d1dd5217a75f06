//! Last lines of logs, for messages about a VM that is gone.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How much of a log's end is looked at, in bytes.
const TAIL_BYTES: u64 = 8 * 1024;
/// Longest line that is passed on, in characters.
const LINE_CHARS: usize = 400;

/// What Linux says when it gives up: why, and where it was. Registers and a trace follow, so that these are seldom among
/// the last lines.
const TELLING: [&str; 5] = ["Kernel panic", "BUG:", "Oops", "general protection fault", "RIP: "];
/// Most of those that are passed on.
const TELLING_LINES: usize = 6;

/// The last lines of a log that a guest may have written: bounded, without control characters, none empty. The reasons
/// of a panic come before them.
pub(crate) fn last_lines(log: &File, count: usize) -> Vec<String> {
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let start = length.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(length - start).unwrap_or_default()];
    let mut filled = 0;
    while let Ok(read @ 1..) = log.read_at(&mut bytes[filled..], start + filled as u64) {
        filled += read;
    }
    bytes.truncate(filled);
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split(['\n', '\r']).map(clean).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    let (earlier, last) = lines.split_at(lines.len().saturating_sub(count));
    let telling = earlier.iter().filter(|line| TELLING.iter().any(|text| line.contains(text)));
    // The first is what went wrong; others may follow from it.
    telling.take(TELLING_LINES).chain(last).cloned().collect()
}

fn clean(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_bounded_and_carry_no_control_characters() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(last_lines(&file, 3), Vec::<String>::new());
        file.write_all(&b"x".repeat(100_000)).unwrap();
        file.write_all(b"\none\r\n\x1b[31mtwo\x1b[0m\n\n\xff three \n").unwrap();
        assert_eq!(last_lines(&file, 3), ["one", "[31mtwo[0m", "\u{fffd} three"]);
        assert!(last_lines(&file, 100)[0].len() <= LINE_CHARS);
    }

    #[test]
    fn the_reason_of_a_panic_is_not_lost_behind_its_trace() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"up\n[1.5] Kernel panic - not syncing: Oops\nCall Trace:\n die+0x1/0x2\nRebooting\n").unwrap();
        assert_eq!(last_lines(&file, 1), ["[1.5] Kernel panic - not syncing: Oops", "Rebooting"]);
        assert_eq!(last_lines(&file, 4).len(), 4, "once is enough");
        file.write_all(b"BUG: bad\n RIP: 0010:fn+0x1/0x2\n CR2: 0\n").unwrap();
        file.write_all("Oops: again\n".repeat(100).as_bytes()).unwrap();
        file.write_all(b"end\n").unwrap();
        let lines = last_lines(&file, 1);
        assert_eq!(lines[..3], ["[1.5] Kernel panic - not syncing: Oops", "BUG: bad", "RIP: 0010:fn+0x1/0x2"]);
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (TELLING_LINES + 1, "end"));
    }
}
