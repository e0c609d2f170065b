//! Images as strangers give them: registries that break, folders and archives that lie.

mod sample;
mod registry;
mod disk;
