use std::io::{Read, Seek};

use proptest::prelude::*;

use super::*;

const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const MODEM_CONTROL: u8 = 4;
const SCRATCH: u8 = 7;

fn written(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn print(console: &Console, text: &str) {
    text.bytes().for_each(|byte| console.write(DATA, byte));
}

#[test]
fn lines_appear_when_they_end_and_the_rest_at_the_end() {
    let file = tempfile::tempfile().unwrap();
    let console = Console::new(file.try_clone().unwrap()).unwrap();
    print(&console, "one\ntwo");
    assert_eq!(written(file.try_clone().unwrap()), "one\n");
    drop(console);
    assert_eq!(written(file), "one\ntwo");
}

#[test]
fn a_guest_can_not_fill_the_disk() {
    let file = tempfile::tempfile().unwrap();
    let mut log = Log::new(file.try_clone().unwrap());
    let block = [b'x'; 1 << 16];
    for _ in 0..300 {
        io::Write::write_all(&mut log, &block).unwrap();
    }
    let text = written(file);
    assert!(text.ends_with("dropped]\n") && text.len() < 17 << 20, "{}", text.len());
}

#[test]
fn the_transmitter_interrupts_when_asked_to() {
    let console = Console::new(tempfile::tempfile().unwrap()).unwrap();
    assert!(console.interrupt().read().is_err());
    console.write(INTERRUPT_ENABLE, 2);
    assert_eq!(console.interrupt().read().unwrap(), 1);
}

#[test]
fn a_line_without_an_end_is_written_when_asked_for() {
    let file = tempfile::tempfile().unwrap();
    let console = Console::new(file.try_clone().unwrap()).unwrap();
    print(&console, "last wor");
    assert_eq!(written(file.try_clone().unwrap()), "");
    console.flush();
    assert_eq!(written(file), "last wor");
}

#[test]
fn a_saved_console_goes_on_where_it_was() {
    let console = Console::new(tempfile::tempfile().unwrap()).unwrap();
    console.write(SCRATCH, 0x5a);
    console.write(MODEM_CONTROL, 0x10);
    print(&console, "looped");
    console.write(INTERRUPT_ENABLE, 3);
    let bytes = postcard::to_stdvec(&console.save()).unwrap();
    let file = tempfile::tempfile().unwrap();
    let restored = Console::restore(postcard::from_bytes(&bytes).unwrap(), file.try_clone().unwrap()).unwrap();
    assert_eq!(restored.save(), console.save());
    assert!(restored.interrupt().read().is_ok(), "an interrupt that was pending is raised again");
    assert_eq!((restored.read(SCRATCH), restored.read(DATA)), (0x5a, b'l'));
    restored.write(MODEM_CONTROL, 0);
    print(&restored, "out\n");
    assert_eq!(written(file), "out\n");
}

proptest! {
    #[test]
    fn any_accesses_leave_a_state_that_restores(accesses in prop::collection::vec(any::<(u8, Option<u8>)>(), 0..400)) {
        let console = Console::new(tempfile::tempfile().unwrap()).unwrap();
        for (offset, value) in accesses {
            match value {
                Some(value) => console.write(offset % 9, value),
                None => drop(console.read(offset % 9)),
            }
        }
        let state = console.save();
        let restored = Console::restore(state.clone(), tempfile::tempfile().unwrap()).unwrap();
        prop_assert_eq!(restored.save(), state);
    }

    #[test]
    fn any_bytes_decode_to_a_console_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(state) = postcard::from_bytes::<ConsoleState>(&bytes) {
            let _ = Console::restore(state, tempfile::tempfile().unwrap());
        }
    }
}
