#!/bin/bash
# Builds the file system tests from the Rust registry and prints the directory that
# holds them in bin/, and in bzip2/ the sources of a program, to be compiled by scenarios.

source "$(dirname "$0")/part.sh"

pjdfstest=0.2.2
fsx=0.3.2
bzip2=0.1.13

begin_part rust "$0" "$(rustc --version)"

echo "building pjdfstest and fsx (about 2 minutes)" >&2
cargo install --quiet --locked --root "$work" pjdfstest@$pjdfstest fsx@$fsx >&2

# Cargo fetches what a package depends on.
mkdir -p "$work/fetch/src"
cat >"$work/fetch/Cargo.toml" <<TOML
[package]
name = "fetch"
version = "0.0.0"
edition = "2024"
[dependencies]
bzip2-sys = "=$bzip2"
[workspace]
TOML
: >"$work/fetch/src/lib.rs"
manifest=$(cargo metadata --quiet --format-version 1 --manifest-path "$work/fetch/Cargo.toml" |
    jq -r '.packages[] | select(.name == "bzip2-sys") | .manifest_path')
cp -r "$(dirname "$manifest")/bzip2-1.0.8" "$work/bzip2"

rm -rf "$work"/{fetch,.crates.toml,.crates2.json}
finish_part
