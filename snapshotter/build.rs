//! Generates the Snapshots service, and a client of containerd's containers, without needing `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["snapshots.proto", "containers.proto"], ["proto"])?;
    // The other side of each is what the tests speak with.
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(files)?;
    Ok(())
}
