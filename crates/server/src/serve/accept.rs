//! Connections: taken, spoken to in HTTP/1.1, and drained when the server stops.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::report;

/// A client that has not sent its whole head by then is gone, or wants to hold the connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Head of a request, and at the same time the buffer of a connection.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause when no more files can be open: connections that end free some.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// This long after the last connection came, what answering it took is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Where connections come from.
pub(super) trait Door: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Door for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        let (stream, _) = self.accept().await?;
        // Events are small and waited for.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Door for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

/// Takes connections until the server stops. Each is a task of `tasks`.
pub(super) async fn accept(
    door: impl Door,
    routes: Router,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    let mut pause = PAUSE_MIN;
    let mut rests = true;
    loop {
        let taken = tokio::select! {
            taken = door.next() => taken,
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(REST_AFTER), if !rests => {
                rests = true;
                // What cannot be given back just stays.
                let _ = kiln_stdx::memory::give_back();
                continue;
            }
        };
        rests = false;
        match taken {
            Ok(stream) => {
                pause = PAUSE_MIN;
                tasks.spawn(serve(stream, routes.clone(), stopping.clone()));
            }
            // The client went away between knocking and being let in.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                if pause == PAUSE_MIN {
                    report::say(&format!("cannot take a connection: {error}"));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    stopping: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(answer(routes, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What a client does wrong here has no one to be told to.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(routes: Router, request: Request<Incoming>) -> axum::response::Response {
    match routes.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Gives what it holds, then nothing more.
    struct Scripted(Mutex<Vec<io::Result<DuplexStream>>>);

    impl Door for Scripted {
        type Stream = DuplexStream;
        async fn next(&self) -> io::Result<DuplexStream> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_taken_once_files_can_be_opened_again() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let full = || Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
        let door = Scripted(Mutex::new(vec![Ok(server), full(), full(), full()]));
        let routes = Router::new().fallback(async || "here");
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept(door, routes, tasks.clone(), stopping.clone()));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        // The connection idles; stopping ends it.
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
