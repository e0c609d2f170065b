//! Container images: from the name in a manifest to layers on disk and a configuration.
//!
//! ```text
//! rust:1.90 ─▶ reference ─▶ registry (mirrors, credentials) ─┐
//! oci:PATH ────────────────▶ layout ─────────────────────────┼─▶ manifest ─▶ config, layers ─▶ LayerStore
//! docker-archive:PATH ─────▶ archive ────────────────────────┤
//! docker-daemon:NAME ──────▶ daemon ─────────────────────────┘
//! ```
//!
//! A layer goes from the network through its checks and its decompression into the store of layers
//! in one stream; nothing of it is kept compressed. What is kept beside the layers are the manifests and
//! configurations, a few kilobytes an image, so that an image that is there needs no network.
//!
//! Always: every byte is checked against the digest that led to it before anything is made of it that
//! lasts; what an image says is bounded (`limit`); a credential is never in an error or a log.
//!
//! Elsewhere: where layers lie and how an archive is unpacked safely (`workspace`, given here as
//! [`LayerStore`]); what runs in an image (`executor`).

mod limit;
mod reference;
mod credentials;
mod manifest;
mod blob;
mod registry;
mod files;
mod layout;
mod archive;
mod daemon;
mod pulled;
mod known;
mod turn;
mod images;
mod error;

pub use credentials::Credentials;
pub use daemon::DockerHost;
pub use error::ImageError;
pub use files::{Files, Folder};
pub use images::{Images, LayerStore, Policy, Progress, Registries};
pub use known::Entry;
pub use manifest::{Config, HealthCheck, Image};
pub use reference::Reference;
