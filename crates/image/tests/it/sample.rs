//! Small images made here, and a store that keeps what it is given.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kiln_image::{Credentials, Images, LayerStore, Registries};
use kiln_model::layer::Digest;
use serde_json::{Value, json};
use sha2::Digest as _;

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

pub fn named(bytes: &[u8]) -> String {
    format!("sha256:{}", digest(bytes))
}

/// Layers as they were given, uncompressed.
#[derive(Default)]
pub struct Kept(pub Mutex<HashMap<Digest, Vec<u8>>>);

impl LayerStore for Kept {
    fn has(&self, diff_id: &Digest) -> bool {
        self.0.lock().unwrap().contains_key(diff_id)
    }

    fn unpack(&self, diff_id: &Digest, archive: &mut (dyn Read + Send)) -> Result<(), String> {
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).map_err(|cause| cause.to_string())?;
        self.0.lock().unwrap().insert(diff_id.clone(), bytes);
        Ok(())
    }
}

pub struct Machine {
    pub images: Images,
    pub kept: Arc<Kept>,
    pub folder: tempfile::TempDir,
}

pub fn machine(registries: Registries) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Kept::default());
    let images = Images::open(&folder.path().join("images"), kept.clone(), registries).unwrap();
    Machine { images, kept, folder }
}

pub fn credentials(config: &Value) -> Credentials {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Credentials::read(folder.path()).unwrap()
}

/// An image with these layers, as a registry has it: blobs by digest, and the manifest.
pub struct Sample {
    pub layers: Vec<Vec<u8>>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

impl Sample {
    pub fn new(layers: &[&[u8]]) -> Self {
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.to_vec()).collect();
        let ids: Vec<String> = layers.iter().map(|layer| named(layer)).collect();
        let config = json!({
            "os": "linux", "architecture": go_architecture(),
            "config": {"Env": ["A=b"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        })
        .to_string()
        .into_bytes();
        let mut blobs = HashMap::from([(named(&config), config.clone())]);
        let mut sent = Vec::new();
        for layer in &layers {
            let compressed = gzip(layer);
            sent.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": named(&compressed), "size": compressed.len()}));
            blobs.insert(named(&compressed), compressed);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": named(&config), "size": config.len()},
            "layers": sent,
        });
        let manifest = manifest.to_string().into_bytes();
        blobs.insert(named(&manifest), manifest.clone());
        Self { layers, blobs, manifest, config }
    }

    pub fn is_kept(&self, kept: &Kept) -> bool {
        let kept = kept.0.lock().unwrap();
        kept.len() == self.layers.len()
            && self.layers.iter().all(|layer| kept.get(&digest(layer)) == Some(layer))
    }

    /// As a folder in OCI's layout, under a tag.
    pub fn write_layout(&self, at: &Path, tag: &str) {
        std::fs::create_dir_all(at.join("blobs/sha256")).unwrap();
        for (name, bytes) in &self.blobs {
            let name = name.strip_prefix("sha256:").unwrap();
            std::fs::write(at.join("blobs/sha256").join(name), bytes).unwrap();
        }
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": named(&self.manifest), "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        std::fs::write(at.join("index.json"), index.to_string()).unwrap();
    }
}

pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
