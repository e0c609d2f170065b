//! Why there is no image.

use std::path::PathBuf;

/// What went wrong with an image, in words for who wrote its name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    #[error("`{name}` is not the name of an image: {why}")]
    Name { name: String, why: String },
    #[error("there is no image `{name}`: {why}")]
    Unknown { name: String, why: String },
    /// The registry wants to know who asks, or says that who asks may not.
    #[error(
        "the registry `{registry}` refuses `{name}`: {why}; log in with `docker login {registry}` as the \
         user that kiln runs as, or correct the name"
    )]
    Refused { registry: String, name: String, why: String },
    #[error("the registry `{registry}` cannot be reached for `{name}`: {why}")]
    Away { registry: String, name: String, why: String },
    #[error("the image `{name}` is not on this machine, and the pull policy is `never`")]
    Absent { name: String },
    /// It has other platforms.
    #[error("the image `{name}` is not there for {wanted}; it is there for {there}")]
    Platform { name: String, wanted: String, there: String },
    /// Not what was promised, or not what an image can be.
    #[error("the image `{name}` is damaged or hostile: {why}")]
    Damaged { name: String, why: String },
    #[error("the layer {layer} of `{name}` cannot be unpacked: {why}")]
    Unpack { name: String, layer: String, why: String },
    #[error("`{}` of the image `{name}` cannot be read: {why}", .path.display())]
    File { name: String, path: PathBuf, why: String },
    #[error("{0}")]
    Other(String),
}

impl ImageError {
    pub(crate) fn name(name: &str, why: &str) -> Self {
        // A line of the manifest may be anything.
        let name = name.chars().filter(|c| !c.is_control()).take(120).collect();
        Self::Name { name, why: why.to_owned() }
    }

    pub(crate) fn damaged(name: impl ToString, why: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_string(), why: why.into() }
    }
}
