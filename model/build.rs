//! Makes the wire types from the .proto files, without protoc.

use std::env;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/envoy/service/auth/v3/external_auth.proto",
        "proto/envoy/service/discovery/v3/discovery.proto",
        "proto/weft/v1/authentication.proto",
        "proto/weft/v1/authorization.proto",
        "proto/weft/v1/capture.proto",
        "proto/weft/v1/common.proto",
        "proto/weft/v1/endpoints.proto",
        "proto/weft/v1/identity.proto",
        "proto/weft/v1/mesh.proto",
        "proto/weft/v1/report.proto",
        "proto/weft/v1/request_authentication.proto",
        "proto/weft/v1/route.proto",
        "proto/weft/v1/service.proto",
        "proto/weft/v1/traffic_policy.proto",
        "proto/weft/v1/workload.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_transport(false)
        // Maps encode sorted, so that the hash of a resource is stable.
        .btree_map(".")
        // Encoded once, sent to all.
        .bytes(".envoy.service.discovery.v3.Any.value")
        .compile_fds(descriptors)?;
    Ok(())
}
