//! The page, and its WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_server::tls_rustls::RustlsConfig;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::programme::Programme;
use crate::protocol::{FromPage, ToPage};
use crate::uploads;

/// What browsers may load: nothing from elsewhere.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:";

#[derive(Clone)]
struct Studio {
    programme: Arc<Programme>,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Access {
    token: Option<String>,
}

/// Serves the page until an interrupt.
///
/// # Errors
/// [`Error::Listen`], and those of the certificate.
pub async fn serve(args: &Args, programme: Arc<Programme>) -> Result<()> {
    let studio = Studio { programme, token: args.token.clone() };
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move {
            ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)], text)
        })
    };
    let router = Router::new()
        .route("/ws", get(connect))
        .route("/references/{name}", post(upload).layer(DefaultBodyLimit::max(uploads::LARGEST)))
        .route("/hls/{name}", get(piece))
        .route_layer(middleware::from_fn_with_state(studio.clone(), guard))
        // The page itself needs no token: it steers nothing.
        .route("/", file("text/html; charset=utf-8", include_str!("../page/index.html")))
        .route("/studio.js", file("text/javascript; charset=utf-8", include_str!("../page/studio.js")))
        .route("/studio.css", file("text/css; charset=utf-8", include_str!("../page/studio.css")))
        .with_state(studio);
    let address = SocketAddr::new(args.listen, args.port);
    let listener = std::net::TcpListener::bind(address).map_err(Error::Listen)?;
    listener.set_nonblocking(true).map_err(Error::Listen)?;
    let address = listener.local_addr().map_err(Error::Listen)?;
    let scheme = if args.is_https() { "https" } else { "http" };
    let token = args.token.as_ref().map(|token| format!("/?token={token}")).unwrap_or_default();
    println!("{scheme}://{address}{token}");
    let tls = if args.is_https() { Some(certificate(args).await?) } else { None };
    let service = router.into_make_service();
    let served = async {
        match tls {
            Some(tls) => axum_server::from_tcp_rustls(listener, tls)?.serve(service).await,
            None => axum_server::from_tcp(listener)?.serve(service).await,
        }
    };
    tokio::select! {
        served = served => served.map_err(Error::Listen),
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated() => Ok(()),
    }
}

/// Waits for the signal that ends a service.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// The certificate of the arguments, or a new one.
async fn certificate(args: &Args) -> Result<RustlsConfig> {
    // Only the first provider of a process counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |error: std::io::Error| Error::Certificate(error.to_string());
    if let (Some(certificate), Some(key)) = (&args.certificate, &args.private_key) {
        return RustlsConfig::from_pem_file(certificate, key).await.map_err(failed);
    }
    let names = vec!["localhost".to_string(), args.listen.to_string()];
    let made =
        rcgen::generate_simple_self_signed(names).map_err(|error| Error::Certificate(error.to_string()))?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    RustlsConfig::from_pem(certificate.into_bytes(), key.into_bytes()).await.map_err(failed)
}

/// Refuses a request that does not come from a page of this server, or has no token, before its body is read.
async fn guard(
    State(studio): State<Studio>,
    Query(access): Query<Access>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if studio.token.is_some() && studio.token != access.token {
        return (StatusCode::UNAUTHORIZED, "the address needs ?token=").into_response();
    }
    if !is_same_origin(headers) || studio.token.is_none() && !is_own_name(headers) {
        return (StatusCode::FORBIDDEN, "another site cannot steer the studio").into_response();
    }
    next.run(request).await
}

/// Opens the WebSocket.
async fn connect(State(studio): State<Studio>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| converse(socket, studio.programme))
}

/// Keeps a picture for `reference`. The answer is its name there, or why it is no picture.
async fn upload(State(studio): State<Studio>, Path(name): Path<String>, picture: Bytes) -> Response {
    let added = tokio::task::spawn_blocking(move || studio.programme.uploads.add(&name, &picture));
    match added.await {
        Ok(Ok(name)) => name.into_response(),
        Ok(Err(reason)) => (StatusCode::UNPROCESSABLE_ENTITY, reason).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A file of the HLS stream.
async fn piece(State(studio): State<Studio>, Path(name): Path<String>) -> Response {
    let Some(hls) = &studio.programme.hls else {
        return (StatusCode::NOT_FOUND, "start the studio with --hls").into_response();
    };
    match hls.file(&name, studio.token.as_deref()) {
        Some((kind, bytes)) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        None => (StatusCode::NOT_FOUND, "not there yet").into_response(),
    }
}

/// Whether the request comes from a page of this server, or from no page. Browsers say so, in one header or the other.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return false;
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, origin)| origin == host),
        (None, _) => true,
        (Some(_), None) => false,
    }
}

/// Whether the address names this machine itself. Another name may be one that a foreign site lets point here.
fn is_own_name(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Exchanges messages with a page until it is closed.
async fn converse(mut socket: WebSocket, programme: Arc<Programme>) {
    let mut events = programme.events();
    let (own, mut answers) = mpsc::unbounded_channel();
    let mut session = None;
    // The channel is open: this function holds it.
    let _ = own.send(programme.values());
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => if send(&mut socket, &event).await.is_err() { break },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            Some(answer) = answers.recv() => if send(&mut socket, &answer).await.is_err() { break },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Ok(message) = serde_json::from_str(&text) {
                        let (programme, own) = (programme.clone(), own.clone());
                        let mut watched = session.take();
                        // GStreamer may wait for its own threads.
                        let handled = tokio::task::spawn_blocking(move || {
                            handle(message, &programme, &mut watched, own);
                            watched
                        });
                        session = handled.await.unwrap_or(None);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let left = tokio::task::spawn_blocking(move || {
        programme.leave(&own);
        session.iter().for_each(|session| programme.viewers.end(session));
    });
    // Nobody is told of a panic.
    let _ = left.await;
}

async fn send(socket: &mut WebSocket, message: &ToPage) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    socket.send(Message::Text(text.into())).await
}

/// Does what the page asks for. `session` is its session, once it watches.
fn handle(
    message: FromPage,
    programme: &Programme,
    session: &mut Option<String>,
    page: mpsc::UnboundedSender<ToPage>,
) {
    match (message, session.as_deref()) {
        (FromPage::Watch, watched) => {
            if let Some(before) = watched {
                programme.viewers.end(before);
            }
            *session = Some(programme.viewers.watch(page));
        }
        (FromPage::Answer { sdp }, Some(session)) => {
            if !programme.viewers.answer(session, &sdp) {
                let _ = page.send(ToPage::Warning { text: "the answer of the browser is not valid".into() });
            }
        }
        (FromPage::Ice { candidate, line }, Some(session)) => {
            programme.viewers.add_ice(session, &candidate, line);
        }
        (FromPage::Set { values }, _) => programme.set(&values),
        (FromPage::Regenerate, _) => programme.regenerate(),
        (FromPage::Pause { paused }, _) => programme.pause(paused),
        (FromPage::Record { on }, _) => programme.record(on),
        (FromPage::Storyboard { text }, _) => programme.play_storyboard(&text),
        (FromPage::Camera { sdp }, _) => programme.start_camera(&sdp, page),
        (FromPage::CameraIce { candidate, line }, _) => programme.add_camera_ice(&candidate, line),
        (FromPage::CameraStop, _) => programme.stop_camera(),
        (FromPage::Answer { .. } | FromPage::Ice { .. }, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_only_names_of_this_machine_count() {
        let host = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_own_name(&headers)
        };
        for own in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost"] {
            assert!(host(own), "{own}");
        }
        for other in ["evil.example:8080", "10.0.0.1:8080", ""] {
            assert!(!host(other), "{other}");
        }
    }

    #[test]
    fn another_site_is_refused() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:8080".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        assert!(is_same_origin(&headers(Some("http://127.0.0.1:8080"))));
        assert!(is_same_origin(&headers(None)), "no browser");
        for other in ["http://example.com", "http://127.0.0.1:9090", "null"] {
            assert!(!is_same_origin(&headers(Some(other))), "{other}");
        }
        // A picture or a video in a page of another site has no origin.
        let mut embedded = headers(None);
        embedded.insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert!(!is_same_origin(&embedded));
    }
}
