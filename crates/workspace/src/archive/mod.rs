//! Layers as streams: tar as OCI images have it, compressed or not.
//!
//! ```text
//! path         a file, folder, link or fifo; names, times and extended attributes in PAX records
//! .wh.NAME     NAME of the layers below is gone
//! .wh..wh..opq its folder shows nothing of the layers below
//! ```
//!
//! A file that is really called `.wh.…` carries the record `KILN.plain`. Holes are kept (GNU sparse
//! format 1.0). Owners are numbers; who packs is 0. Sockets and devices have no place in an archive:
//! the packer counts them, the unpacker refuses them. What is not compressed by us may be: gzip and
//! plain tar are read too.
//!
//! Always: both ways in bounded memory; what is unpacked stays below the folder that it is unpacked
//! in, whatever the archive says.

mod header;
mod pack;
mod read;
mod ahead;
mod unpack;
mod error;
#[cfg(test)]
mod tests;

pub use ahead::plain;
pub use error::{Bound, UnpackError};
pub(crate) use pack::pack;
pub use pack::{PackError, Packed};
pub(crate) use unpack::Marks;
pub use unpack::{Bounds, Over, Unpacked, unpack};
pub(crate) use unpack::{unpack_as, unpack_image};

/// Parts of one file between holes. Who unpacks holds their places in memory; a file with more is packed
/// as if it had none.
const HOLES_MAX: usize = 1 << 20;

/// How a file is marked that is gone, in front of its name.
const WHITE_OUT: &[u8] = b".wh.";
/// The mark of an opaque folder, in it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The PAX record that says that a name with a mark in front is only a name.
const PLAIN: &str = "KILN.plain";
/// What comes before the name of an extended attribute.
const XATTR: &str = "SCHILY.xattr.";
