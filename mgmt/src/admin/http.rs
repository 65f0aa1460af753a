//! HTTP on the admin port: pages to get, and one thing to put, the filter of the log.
//!
//! Invariants: what others send costs a bounded number of connections, bytes and seconds, and never
//! a panic; only this machine may put anything, and no page in a browser can (`PUT` is no simple
//! request, and what browsers ask before others is refused).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
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
use crate::log;

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
        async move { Ok::<_, Infallible>(answer(request, from, &source).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        // Who has said all it wants to say, and closes its half, is to be answered.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let ended = tokio::time::timeout(CONNECTION_TIME_MAX, conversation).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!("a conversation with {from} on the admin port: {error}");
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    source: &Source,
) -> Response<Full<Bytes>> {
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    if *request.method() == Method::PUT && request.uri().path() == "/log" {
        return change_log(request, from).await;
    }
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
        "/log" => match log::filter() {
            Some(filter) => page(StatusCode::OK, TEXT, format!("{filter}\n")),
            None => page(StatusCode::NOT_FOUND, TEXT, "this process has no log\n".to_owned()),
        },
        _ => {
            let known = "there are /metrics /livez /readyz /startupz /status.json /log\n";
            page(StatusCode::NOT_FOUND, TEXT, known.to_owned())
        }
    }
}

/// Another filter for the log; the answer is the one before.
async fn change_log(request: Request<Incoming>, from: SocketAddr) -> Response<Full<Bytes>> {
    let refuse = |code, why: String| page(code, TEXT, why + "\n");
    if !from.ip().to_canonical().is_loopback() {
        let why = "only from the machine of this process".to_owned();
        return refuse(StatusCode::FORBIDDEN, why);
    }
    let body = Limited::new(request.into_body(), log::FILTER_BYTES_MAX).collect();
    let filter = match tokio::time::timeout(HEAD_TIME_MAX, body).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "no filter came".to_owned()),
    };
    match log::change(&filter) {
        Ok(before) => page(StatusCode::OK, TEXT, before + "\n"),
        Err(why) => refuse(StatusCode::BAD_REQUEST, why),
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
