#[test]
fn dbg() {
    let files = weft_config::read_directory("../examples/shop").unwrap();
    let c = weft_config::compile(&files);
    for k in c.mesh.services.keys() {
        eprintln!("{k}")
    }
    for k in c.mesh.workloads.keys() {
        eprintln!("{k}")
    }
    for k in c.mesh.authorizations.keys() {
        eprintln!("{k}")
    }
}
