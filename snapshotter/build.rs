//! Generates the Snapshots service from `proto/snapshots.proto`, without needing `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/snapshots.proto");
    let files = protox::compile(["snapshots.proto"], ["proto"])?;
    // The client is what the tests speak with.
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(files)?;
    Ok(())
}
