//! What an image may say at most. Registries and repositories are strangers.

/// Manifests and indexes; the specification lets registries refuse larger ones.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Configurations: large ones carry a long history.
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Docker builds at most 127; the kernel stacks 500, and a job needs some of them itself.
pub(crate) const LAYERS_MAX: usize = 256;
/// Of one layer as it is sent.
pub(crate) const LAYER_BYTES_MAX: u64 = 64 << 30;
/// Of all layers of one image, unpacked, unless its machine's configuration says otherwise. The largest
/// known have 40 GB.
pub(crate) const UNPACKED_BYTES_MAX: u64 = 100_000_000_000;
/// Indexes within indexes.
pub(crate) const DEPTH_MAX: usize = 4;
