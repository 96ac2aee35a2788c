//! A local server with the API of the Hugging Face Hub. Tests can modify its replies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request of a client.
#[derive(Clone, Debug, Default)]
pub struct HubRequest {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path, with the leading slash.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// First byte of the requested range.
    pub from: u64,
    /// Bearer token.
    pub token: Option<String>,
}

/// A reply of the server.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// Content of the file.
    pub body: Vec<u8>,
    /// Number of body bytes after which the connection is closed.
    pub cut: Option<usize>,
    /// Number of body bytes after which nothing more is sent.
    pub hang: Option<usize>,
}

impl Reply {
    /// A reply with only a status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Sets a header, and replaces an existing one.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.into(), value.to_string()));
    }
}

/// A running server. Every repository name serves the same folder. It runs until the process exits.
pub struct Server {
    /// Base URL.
    pub endpoint: String,
    asked: Arc<Mutex<Vec<HubRequest>>>,
}

impl Server {
    /// Serves `folder`. `modify` can change every reply.
    pub fn start(folder: &Path, modify: impl Fn(&HubRequest, &mut Reply) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new((folder.to_path_buf(), asked.clone(), modify));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || {
                    let (folder, log, modify) = &*served;
                    // A closed connection is not an error.
                    let _ = talk(stream, |asked| {
                        log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
                        let mut reply = answer(folder, asked);
                        modify(asked, &mut reply);
                        reply
                    });
                });
            }
        });
        Self { endpoint: format!("http://{address}"), asked }
    }

    /// Takes the requests received so far.
    pub fn asked(&self) -> Vec<HubRequest> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The reply of the Hub for a repository with the files of `folder`. Small files are redirected within the server, weights
/// to another host name.
pub fn answer(folder: &Path, asked: &HubRequest) -> Reply {
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
        // Another host name for the same machine.
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

/// The ETag of `file`: SHA-256 for weights, the git blob id for other files.
pub fn etag(file: &str, body: &[u8]) -> String {
    let digest = match file.ends_with(".safetensors") {
        true => Sha256::digest(body).to_vec(),
        false => {
            Sha1::new_with_prefix(format!("blob {}\0", body.len())).chain_update(body).finalize().to_vec()
        }
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn talk(stream: TcpStream, answer: impl FnOnce(&HubRequest) -> Reply) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut asked = HubRequest::default();
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
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", reply.status);
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
        // Until the client closes the connection.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

/// The files in `folder`, as paths relative to `root`.
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
