//! `supermachine`.
#![forbid(unsafe_code)]

fn main() {}
