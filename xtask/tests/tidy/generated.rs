//! Generated files are what their generators give now.

use kiln_it::binary::checkout;

#[test]
fn generated_files_are_fresh() {
    for file in xtask::generated::all().expect("the generators run") {
        let kept = std::fs::read_to_string(checkout().join(file.path)).unwrap_or_default();
        assert!(kept == file.text, "{} is stale: run `cargo xtask docs`", file.path);
    }
}
