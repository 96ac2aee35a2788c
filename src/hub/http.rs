//! HTTP requests that can be cancelled at any time.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body, http};

use crate::{Cancel, Result};

/// A server that sends nothing for this long is gone.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two checks for a cancel.
const POLL: Duration = Duration::from_millis(20);
/// Bytes that are received at a time.
const PIECE: usize = 256 << 10;
/// Received pieces that wait to be written.
const QUEUE: usize = 4;
/// Redirects within one server, for example of a renamed repository.
const MAX_REDIRECTS: usize = 5;

/// An HTTP client.
pub struct HttpClient {
    agent: Agent,
    token: Option<String>,
}

/// A response. Another thread receives the bytes, so that a wait for them can be cancelled.
pub struct Response {
    pub status: u16,
    headers: HeaderMap,
    pieces: Receiver<Message>,
}

enum Message {
    Head(u16, HeaderMap),
    Piece(Vec<u8>),
    Failed(String),
}

/// The result of a wait for bytes.
pub enum Piece {
    Bytes(Vec<u8>),
    End,
    /// The connection failed.
    Failed(String),
}

impl HttpClient {
    /// `token` is sent to the requested server only, not to servers that it redirects to.
    pub fn new(token: Option<String>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .timeout_per_read(Some(TIMEOUT))
            .user_agent(concat!("soragen/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { agent, token }
    }

    /// Requests the file at `url`, from byte `from` on.
    pub fn get(&self, url: &str, from: u64, cancel: &Cancel) -> Result<Result<Response, String>> {
        let mut request = http::Request::get(url);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        self.send(request, None, cancel)
    }

    /// Requests the headers of the file at `url`. Redirects to other servers are not followed.
    pub fn head(&self, url: &str, cancel: &Cancel) -> Result<Result<Response, String>> {
        let mut url = url.to_string();
        for _ in 0..MAX_REDIRECTS {
            let response = match self.send(http::Request::head(&url), Some(0), cancel)? {
                Ok(response) => response,
                Err(reason) => return Ok(Err(reason)),
            };
            let location = response.header("location").filter(|_| (300..400).contains(&response.status));
            match location.and_then(|location| same_server_url(&url, location)) {
                Some(redirected) => url = redirected,
                None => return Ok(Ok(response)),
            }
        }
        Ok(Err("too many redirects".into()))
    }

    /// The outer error is a cancel, the inner error is the server's.
    fn send(
        &self,
        mut request: http::request::Builder,
        redirects: Option<u32>,
        cancel: &Cancel,
    ) -> Result<Result<Response, String>> {
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = match request.body(()) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (sender, pieces) = sync_channel(QUEUE);
        let agent = self.agent.clone();
        let exchange = move || {
            let mut config = agent.configure_request(request);
            if let Some(count) = redirects {
                config = config.max_redirects(count).max_redirects_will_error(false);
            }
            match agent.run(config.build()) {
                Ok(response) => forward(response, &sender),
                // After a cancel there is no receiver.
                Err(error) => drop(sender.send(Message::Failed(error.to_string()))),
            }
        };
        // The thread ends without a receiver: at the next bytes, or after the timeout.
        if let Err(error) = std::thread::Builder::new().name("soragen-hub".into()).spawn(exchange) {
            return Ok(Err(error.to_string()));
        }
        Ok(match wait(&pieces, cancel)? {
            Some(Message::Head(status, headers)) => Ok(Response { status, headers, pieces }),
            Some(Message::Failed(reason)) => Err(reason),
            Some(Message::Piece(_)) | None => Err("the connection ended".into()),
        })
    }
}

impl Response {
    /// The header `name`, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The header `name`, if it is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// Waits for more bytes.
    pub fn next(&self, cancel: &Cancel) -> Result<Piece> {
        Ok(match wait(&self.pieces, cancel)? {
            Some(Message::Piece(bytes)) => Piece::Bytes(bytes),
            Some(Message::Failed(reason)) => Piece::Failed(reason),
            Some(Message::Head(..)) | None => Piece::End,
        })
    }

    /// The whole body, at most `max_bytes`.
    pub fn text(&self, max_bytes: usize, cancel: &Cancel) -> Result<Result<Vec<u8>, String>> {
        let mut body = Vec::new();
        loop {
            match self.next(cancel)? {
                Piece::Bytes(bytes) if body.len() + bytes.len() <= max_bytes => body.extend(bytes),
                Piece::Bytes(_) => return Ok(Err(format!("the response has more than {max_bytes} bytes"))),
                Piece::Failed(reason) => return Ok(Err(reason)),
                Piece::End => return Ok(Ok(body)),
            }
        }
    }
}

fn forward(response: http::Response<Body>, to: &SyncSender<Message>) {
    let (head, body) = response.into_parts();
    if to.send(Message::Head(head.status.as_u16(), head.headers)).is_err() {
        return;
    }
    let mut reader = body.into_reader();
    loop {
        let mut piece = vec![0; PIECE];
        let message = match reader.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                Message::Piece(piece)
            }
            Err(error) => Message::Failed(error.to_string()),
        };
        let last = matches!(message, Message::Failed(_));
        if to.send(message).is_err() || last {
            return;
        }
    }
}

/// Waits for a message; `None` at the end.
fn wait<T>(from: &Receiver<T>, cancel: &Cancel) -> Result<Option<T>> {
    loop {
        cancel.check()?;
        match from.recv_timeout(POLL) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// The URL of `location`, if it is on the server of `url`.
fn same_server_url(url: &str, location: &str) -> Option<String> {
    let to: Uri = location.parse().ok().filter(|to: &Uri| to.host().is_none())?;
    let mut parts = url.parse::<Uri>().ok()?.into_parts();
    parts.path_and_query = to.into_parts().path_and_query;
    Some(Uri::from_parts(parts).ok()?.to_string())
}
