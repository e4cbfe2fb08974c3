//! Generates the wire types with protox: no `protoc` on a build host.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cri/v1/api.proto");
    println!("cargo:rerun-if-changed=monitor/v1/monitor.proto");
    let monitor = protox::compile(["monitor/v1/monitor.proto"], ["."])?;
    prost_build::Config::new().compile_fds(monitor)?;
    if std::env::var_os("CARGO_FEATURE_CRI").is_some() {
        let cri = protox::compile(["cri/v1/api.proto"], ["."])?;
        if std::env::var_os("CARGO_FEATURE_CLIENT").is_some() {
            // Clients print and read messages as JSON, for which they need the fields' names.
            let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
            std::fs::write(PathBuf::from(out).join("cri.bin"), cri.encode_to_vec())?;
        }
        tonic_prost_build::configure()
            .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
            .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
            .build_transport(false)
            .bytes(".")
            // Holds secrets: its Debug is written by hand in src/cri.rs.
            .skip_debug([".runtime.v1.AuthConfig"])
            .compile_fds(cri)?;
    }
    Ok(())
}
