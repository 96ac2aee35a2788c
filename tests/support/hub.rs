//! A server that answers as the hub of models does, on this machine, and whose answers a test can spoil.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that every revision is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asks.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path, from the slash on.
    pub path: String,
    /// The server's name, as the client has it.
    pub host: String,
    /// From which byte on.
    pub from: u64,
    /// Whom it says it is.
    pub token: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Of HTTP.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The file.
    pub body: Vec<u8>,
    /// After so many bytes of it the connection breaks.
    pub cut: Option<usize>,
    /// After so many bytes of it nothing more comes.
    pub hang: Option<usize>,
}

impl Reply {
    /// A status without anything else.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Sets a header in the place of the one that there is.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.into(), value.to_string()));
    }
}

/// A running server. It has one repository under every name, the files of a folder; and goes on until the test ends.
pub struct Server {
    /// Its address.
    pub endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Serves `folder`. Every answer goes through `spoil` first.
    pub fn start(folder: &Path, spoil: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new((folder.to_path_buf(), asked.clone(), spoil));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || {
                    let (folder, log, spoil) = &*served;
                    // A client that goes away is none of the server's business.
                    let _ = talk(stream, |asked| {
                        log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
                        let mut reply = answer(folder, asked);
                        spoil(asked, &mut reply);
                        reply
                    });
                });
            }
        });
        Self { endpoint: format!("http://{address}"), asked }
    }

    /// What it was asked so far; it is forgotten.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the hub says of a repository that has the files of `folder`: commit and paths; small files by way of a redirect
/// within it, weights on another server.
pub fn answer(folder: &Path, asked: &Asked) -> Reply {
    let port = asked.host.rsplit(':').next().unwrap_or_default();
    let parts: Vec<_> = asked.path.split('/').collect();
    if let ["", "api", "models", _, _, "revision", _] = parts[..] {
        let names: Vec<_> =
            paths(folder, folder).into_iter().map(|path| serde_json::json!({ "rfilename": path })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string().into_bytes();
        return Reply { status: 200, body, ..Reply::default() };
    }
    let (place, file) = match parts[..] {
        ["", _, _, "resolve", COMMIT, ..] => ("hub", parts[5..].join("/")),
        ["", place @ ("moved" | "large"), _, _, ..] => (place, parts[4..].join("/")),
        _ => return Reply::status(404),
    };
    let Ok(body) = std::fs::read(folder.join(&file)) else { return Reply::status(404) };
    let mut reply = Reply { status: 200, ..Reply::default() };
    let (etag, size) = (format!("\"{}\"", etag(&file, &body)), body.len());
    if place == "hub" && file.ends_with(".safetensors") {
        reply.status = 302;
        // Another name of this machine.
        reply.set("location", format!("http://localhost:{port}/large/{}/{}/{file}", parts[1], parts[2]));
        reply.set("x-linked-etag", etag);
        reply.set("x-linked-size", size);
        return reply;
    }
    if place == "hub" {
        reply.status = 307;
        reply.set("location", format!("/moved/{}/{}/{file}", parts[1], parts[2]));
        return reply;
    }
    reply.set("etag", etag);
    reply.body = body;
    if asked.from > 0 {
        reply.status = 206;
        reply.set("content-range", format!("bytes {}-{}/{size}", asked.from, size - 1));
        reply.body.drain(..(asked.from as usize).min(size));
    }
    reply
}

/// What stands for the content of `file`: of weights their SHA-256, of others what git calls them.
pub fn etag(file: &str, body: &[u8]) -> String {
    let digest = match file.ends_with(".safetensors") {
        true => Sha256::digest(body).to_vec(),
        false => {
            Sha1::new_with_prefix(format!("blob {}\0", body.len())).chain_update(body).finalize().to_vec()
        }
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn talk(stream: TcpStream, answer: impl FnOnce(&Asked) -> Reply) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut asked = Asked::default();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(String::from);
    asked.method = words.next().unwrap_or_default();
    asked.path = words.next().unwrap_or_default();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "host" => asked.host = value.into(),
            "authorization" => asked.token = value.strip_prefix("Bearer ").map(String::from),
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                asked.from = from.and_then(|from| from.parse().ok()).unwrap_or(0);
            }
            _ => {}
        }
    }
    let reply = answer(&asked);
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} Said\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    let all = reply.body.len();
    let sent = reply.cut.or(reply.hang).unwrap_or(all).min(all);
    stream.write_all(&reply.body[..sent])?;
    if reply.hang.is_some() {
        // Until the client goes.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

/// The files in `folder`, by their paths from `root` on.
fn paths(root: &Path, folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => found.extend(paths(root, &path)),
            false => {
                let path: PathBuf = path.strip_prefix(root).expect("in the folder").into();
                found.push(path.to_str().expect("a plain name").into());
            }
        }
    }
    found
}
