//! Asking a server, in a way that can be given up at any time.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body, http};

use crate::{Cancel, Result};

/// A server that says nothing for so long is taken for gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How often whoever waits looks whether to go on.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes taken at a time.
const PIECE: usize = 256 << 10;
/// Pieces that may wait to be written.
const WAITING: usize = 4;
/// Redirects within one server, as of a repository that has another name now.
const MAX_MOVES: usize = 5;

/// Asks servers over HTTP.
pub struct Http {
    agent: Agent,
    token: Option<String>,
}

/// What a server answers. The bytes come from another thread, so that nobody has to wait for them.
pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pieces: Receiver<Message>,
}

enum Message {
    Head(u16, HeaderMap),
    Piece(Vec<u8>),
    Failed(String),
}

/// What became of waiting for bytes.
pub enum Piece {
    Bytes(Vec<u8>),
    End,
    /// The connection broke.
    Broken(String),
}

impl Http {
    /// `token` is told to the server that is asked, and to no other that it leads to.
    pub fn new(token: Option<String>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("soragen/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { agent, token }
    }

    /// The file at `url`, from byte `from` on.
    pub fn get(&self, url: &str, from: u64, cancel: &Cancel) -> Result<Result<Answer, String>> {
        let mut request = http::Request::get(url);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        self.ask(request, None, cancel)
    }

    /// What the server says of the file at `url`; it may lie on another, which is not asked.
    pub fn head(&self, url: &str, cancel: &Cancel) -> Result<Result<Answer, String>> {
        let mut url = url.to_string();
        for _ in 0..MAX_MOVES {
            let answer = match self.ask(http::Request::head(&url), Some(0), cancel)? {
                Ok(answer) => answer,
                Err(reason) => return Ok(Err(reason)),
            };
            let here = answer.header("location").filter(|_| (300..400).contains(&answer.status));
            match here.and_then(|location| beside(&url, location)) {
                Some(moved) => url = moved,
                None => return Ok(Ok(answer)),
            }
        }
        Ok(Err("it leads in a circle".into()))
    }

    /// The error within is the server's; the outer one is that nobody wants to know any more.
    fn ask(
        &self,
        mut request: http::request::Builder,
        redirects: Option<u32>,
        cancel: &Cancel,
    ) -> Result<Result<Answer, String>> {
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = match request.body(()) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (sender, pieces) = sync_channel(WAITING);
        let agent = self.agent.clone();
        let talk = move || {
            let mut config = agent.configure_request(request);
            if let Some(most) = redirects {
                config = config.max_redirects(most).max_redirects_will_error(false);
            }
            match agent.run(config.build()) {
                Ok(answer) => pass_on(answer, &sender),
                // Whoever has gone does not want to know.
                Err(error) => drop(sender.send(Message::Failed(error.to_string()))),
            }
        };
        // It ends by itself when nobody listens any more: at the next bytes, or after the silence.
        if let Err(error) = std::thread::Builder::new().name("soragen-hub".into()).spawn(talk) {
            return Ok(Err(error.to_string()));
        }
        Ok(match wait(&pieces, cancel)? {
            Some(Message::Head(status, headers)) => Ok(Answer { status, headers, pieces }),
            Some(Message::Failed(reason)) => Err(reason),
            Some(Message::Piece(_)) | None => Err("the connection ended".into()),
        })
    }
}

impl Answer {
    /// What the header `name` says, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// Waits for more bytes.
    pub fn next(&self, cancel: &Cancel) -> Result<Piece> {
        Ok(match wait(&self.pieces, cancel)? {
            Some(Message::Piece(bytes)) => Piece::Bytes(bytes),
            Some(Message::Failed(reason)) => Piece::Broken(reason),
            Some(Message::Head(..)) | None => Piece::End,
        })
    }

    /// All bytes, if there are at most `most`.
    pub fn text(&self, most: usize, cancel: &Cancel) -> Result<Result<Vec<u8>, String>> {
        let mut all = Vec::new();
        loop {
            match self.next(cancel)? {
                Piece::Bytes(bytes) if all.len() + bytes.len() <= most => all.extend(bytes),
                Piece::Bytes(_) => return Ok(Err(format!("it says more than {most} bytes"))),
                Piece::Broken(reason) => return Ok(Err(reason)),
                Piece::End => return Ok(Ok(all)),
            }
        }
    }
}

fn pass_on(answer: http::Response<Body>, to: &SyncSender<Message>) {
    let (head, body) = answer.into_parts();
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

/// `None`: there is nothing more to come.
fn wait<T>(from: &Receiver<T>, cancel: &Cancel) -> Result<Option<T>> {
    loop {
        cancel.check()?;
        match from.recv_timeout(LOOK) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Where `location` leads from `url`, if that is on the same server.
fn beside(url: &str, location: &str) -> Option<String> {
    let to: Uri = location.parse().ok().filter(|to: &Uri| to.host().is_none())?;
    let mut parts = url.parse::<Uri>().ok()?.into_parts();
    parts.path_and_query = to.into_parts().path_and_query;
    Some(Uri::from_parts(parts).ok()?.to_string())
}
