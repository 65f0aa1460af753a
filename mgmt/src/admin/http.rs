//! HTTP on the admin port: five pages, `GET` and `HEAD` only.
//!
//! Invariant: what others send costs a bounded number of connections, bytes and seconds, and never
//! a panic; bodies are not read.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::snapshot::Source;
use super::{metrics, pages};

/// Connections at the same time; more are reset.
pub(super) const CONNECTIONS_MAX: usize = 32;

/// How long the head of a request may take, also of the first one.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last, however often it asks: a scraper makes another.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// Headers of one request.
const HEADERS_MAX: usize = 64;

/// Bytes of the head of one request. Hyper wants at least this much.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How long accepting pauses when the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, source: Arc<Source>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => {
                    tokio::spawn(converse(stream, from, Arc::clone(&source), permit));
                }
                // Dropping it with what it has sent unread resets it.
                Err(_) => tracing::debug!("too many connections on the admin port"),
            },
            Err(error) => {
                tracing::debug!("the admin port cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    from: SocketAddr,
    source: Arc<Source>,
    _permit: OwnedSemaphorePermit,
) {
    let answer = service_fn(|request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let ended = tokio::time::timeout(CONNECTION_TIME_MAX, conversation).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!("a conversation with {from} on the admin port: {error}");
    }
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let probe = |probe: pages::Probe| {
        let code = if probe.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        page(code, TEXT, probe.text)
    };
    match request.uri().path() {
        "/metrics" => page(StatusCode::OK, PROMETHEUS, metrics::page(&*source.snapshot().await)),
        "/livez" => probe(pages::live(&*source.snapshot().await)),
        "/readyz" => probe(pages::ready(&*source.snapshot().await)),
        "/startupz" => probe(pages::startup(&*source.snapshot().await)),
        "/status.json" => {
            let status = pages::status(&*source.snapshot().await);
            page(StatusCode::OK, "application/json", format!("{status}\n"))
        }
        _ => {
            let known = "there are /metrics /livez /readyz /startupz /status.json\n";
            page(StatusCode::NOT_FOUND, TEXT, known.to_owned())
        }
    }
}

fn page(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
