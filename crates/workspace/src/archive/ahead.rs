//! Compressed streams as plain ones, decompressed on a thread of their own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What is decompressed at once, and how many of these may wait.
const CHUNK: usize = 256 << 10;
const N_CHUNKS: usize = 4;

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The tar in a stream that may be compressed by zstd or gzip; its first bytes tell.
pub fn plain<'a>(from: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut from = BufReader::with_capacity(CHUNK, from);
    let start = from.fill_buf()?;
    Ok(if start.starts_with(&ZSTD) {
        Box::new(zstd::Decoder::with_buffer(from)?)
    } else if start.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(from))
    } else {
        Box::new(from)
    })
}

/// A reader whose bytes were read by another thread.
pub(super) struct Ahead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

/// Reads `from` ahead while `act` reads what has come.
pub(super) fn ahead<T>(from: impl Read + Send, act: impl FnOnce(Ahead) -> T) -> T {
    std::thread::scope(|scope| {
        let (send, chunks) = sync_channel(N_CHUNKS);
        scope.spawn(move || pump(from, &send));
        // Dropped by `act`, whatever it comes to; the other thread then ends at its next chunk.
        act(Ahead { chunks, chunk: Vec::new(), at: 0 })
    })
}

fn pump(mut from: impl Read, to: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = from.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let over = chunk.is_empty();
        if !over && to.send(Ok(chunk)).is_err() {
            return;
        }
        match read {
            Ok(_) if over => return,
            Ok(_) => {}
            Err(cause) => {
                let _ = to.send(Err(cause));
                return;
            }
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
