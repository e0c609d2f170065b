//! Images in the repository.

use std::path::Path;
use std::sync::Arc;

use kiln_image::{Folder, Image, ImageError, Policy, Progress, Registries};
use serde_json::json;
use tokio::sync::watch;

use crate::sample::{Machine, Sample, machine, named};

async fn get(machine: &Machine, name: &str) -> Result<Image, ImageError> {
    let files = Arc::new(Folder(machine.folder.path().to_owned()));
    machine.images.get(name, Policy::Never, files, &watch::Sender::new(Progress::default())).await
}

#[tokio::test]
async fn a_layout_is_an_image_under_each_of_its_tags() {
    let machine = machine(Registries::default());
    let sample = Sample::new(&[b"one layer", b"another"]);
    sample.write_layout(&machine.folder.path().join("images/base"), "v1");
    let image = get(&machine, "oci:images/base:v1").await.unwrap();
    assert!(sample.is_kept(&machine.kept));
    assert_eq!(get(&machine, "oci:images/base").await.unwrap(), image);
    let unknown = get(&machine, "oci:images/base:v2").await.unwrap_err().to_string();
    assert!(unknown.ends_with("the layout has the tags v1"), "{unknown}");
    let none = get(&machine, "oci:images/none").await.unwrap_err().to_string();
    assert!(none.contains("`images/none/index.json`") && none.contains("no such file"), "{none}");
}

#[tokio::test]
async fn a_layout_whose_files_lead_out_of_the_repository_is_refused() {
    let machine = machine(Registries::default());
    let outside = tempfile::tempdir().unwrap();
    Sample::new(&[b"secret"]).write_layout(outside.path(), "v1");
    std::os::unix::fs::symlink(outside.path(), machine.folder.path().join("link")).unwrap();
    let refused = get(&machine, "oci:link:v1").await.unwrap_err();
    assert!(matches!(refused, ImageError::File { .. }), "{refused}");
    assert!(machine.kept.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_layout_with_a_wrong_blob_is_refused() {
    let machine = machine(Registries::default());
    let sample = Sample::new(&[b"one layer"]);
    let at = machine.folder.path().join("base");
    sample.write_layout(&at, "v1");
    let config = at.join("blobs/sha256").join(&named(&sample.config)[7..]);
    std::fs::write(&config, sample.config.to_ascii_uppercase()).unwrap();
    let wrong = get(&machine, "oci:base").await.unwrap_err();
    assert!(matches!(wrong, ImageError::Damaged { .. }), "{wrong}");
}

/// One entry of a tar.
fn entry(into: &mut Vec<u8>, name: &str, kind: u8, link: &str, bytes: &[u8]) {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..263].copy_from_slice(b"ustar\0");
    into.extend(header);
    into.extend(bytes);
    into.resize(into.len().div_ceil(512) * 512, 0);
}

fn write_archive(at: &Path, images: &[(&Sample, &str)]) {
    let mut archive = Vec::new();
    let mut saved = Vec::new();
    for (position, (sample, tag)) in images.iter().enumerate() {
        let config = format!("{position}.json");
        entry(&mut archive, &config, b'0', "", &sample.config);
        let mut layers = Vec::new();
        for (at, layer) in sample.layers.iter().enumerate() {
            let name = format!("{position}-{at}/layer.tar");
            // The same layer a second time is a link, as older Dockers have it.
            match at {
                1 if sample.layers[0] == sample.layers[1] => {
                    entry(&mut archive, &name, b'2', &format!("../{position}-0/layer.tar"), b"");
                }
                _ => entry(&mut archive, &name, b'0', "", layer),
            }
            layers.push(name);
        }
        saved.push(json!({"Config": config, "RepoTags": [tag], "Layers": layers}));
    }
    entry(&mut archive, "manifest.json", b'0', "", json!(saved).to_string().as_bytes());
    archive.extend([0; 1024]);
    std::fs::write(at, archive).unwrap();
}

#[tokio::test]
async fn an_archive_of_docker_save_is_an_image_under_each_of_its_names() {
    let machine = machine(Registries::default());
    let (one, two) = (Sample::new(&[b"a", b"a"]), Sample::new(&[b"b", b"c"]));
    let at = machine.folder.path().join("two.tar");
    write_archive(&at, &[(&one, "one:1"), (&two, "docker.io/library/two:latest")]);
    let image = get(&machine, "docker-archive:two.tar:two").await.unwrap();
    assert!(two.is_kept(&machine.kept));
    assert_eq!(image.layers.len(), 2);
    get(&machine, "docker-archive:two.tar:one:1").await.unwrap();
    let which = get(&machine, "docker-archive:two.tar").await.unwrap_err().to_string();
    assert!(which.contains("one:1, docker.io/library/two:latest"), "{which}");
}

#[tokio::test]
async fn an_archive_that_is_none_is_named_with_what_is_wrong() {
    let machine = machine(Registries::default());
    let at = machine.folder.path().join("x.tar");
    let sample = Sample::new(&[&[7; 5_000]]);
    write_archive(&at, &[(&sample, "x:1")]);
    let whole = std::fs::read(&at).unwrap();
    for (bytes, why) in [
        (b"nonsense".repeat(100), "not a tar archive"),
        (crate::sample::gzip(&[1; 10_000]).repeat(30), "compressed"),
        (whole[..2500].to_vec(), "cut short"),
        (Vec::new(), "no `manifest.json`"),
    ] {
        std::fs::write(&at, &bytes).unwrap();
        let error = get(&machine, "docker-archive:x.tar").await.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    let missing = get(&machine, "docker-archive:none.tar").await.unwrap_err().to_string();
    assert!(missing.contains("`none.tar`"), "{missing}");
}
