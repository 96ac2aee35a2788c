//! Ways of a live picture to other programs: RTMP, SRT, a switcher, a mixer, another pipeline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};

use gst::prelude::*;
use soragen_tests::fixtures::path;

use crate::scripts::spawn;
use crate::support::{parse, pixels, samples};

fn model() -> String {
    format!("model={}", path("miniature").display())
}

/// A running script of `pipelines/`, which ends with the test.
struct Script {
    child: Child,
    _plugins: tempfile::TempDir,
}

impl Script {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines").join(script);
        let (child, plugins) = spawn(Command::new(script).args(arguments));
        Self { child, _plugins: plugins }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn publish_sh_sends_over_srt() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = Script::start(
        "publish.sh",
        &[&format!("srt://127.0.0.1:{port}?mode=listener"), "the red fox", &model()],
    );
    let shown = samples(&format!(
        "srtsrc uri=srt://127.0.0.1:{port}?mode=caller ! tsdemux ! h264parse ! avdec_h264 ! identity eos-after=20 ! video/x-raw"
    ));
    drop(script);
    assert!(shown.len() >= 19, "{}", shown.len());
    let caps = shown[0].caps().unwrap().to_string();
    assert!(caps.contains("width=(int)48"), "{caps}");
}

/// An RTMP server for one publisher, as far as `rtmp2sink` needs one (Adobe's RTMP specification 1.0). Returns what it got after `publish`.
fn serve_rtmp(listener: &TcpListener, enough: usize) -> std::io::Result<Vec<u8>> {
    let (mut stream, _) = listener.accept()?;
    let mut hello = [0; 1537];
    stream.read_exact(&mut hello)?;
    // Version, a handshake of our own, and that of the client again.
    stream.write_all(&[&[3][..], &[0; 1536], &hello[1..]].concat())?;
    stream.read_exact(&mut hello[..1536])?;
    let mut got = Vec::new();
    answer(&mut stream, &mut got, "connect", &object(&[("code", "NetConnection.Connect.Success")]))?;
    // The number of the message stream.
    answer(&mut stream, &mut got, "createStream", &number(1.0))?;
    read_until(&mut stream, &mut got, b"publish")?;
    let status = object(&[("level", "status"), ("code", "NetStream.Publish.Start")]);
    stream.write_all(&command(1, &[string("onStatus"), number(0.0), vec![5], status].concat()))?;
    let published = got.len();
    while got.len() < published + enough {
        read_some(&mut stream, &mut got)?;
    }
    Ok(got.split_off(published))
}

fn read_some(stream: &mut TcpStream, got: &mut Vec<u8>) -> std::io::Result<()> {
    let mut part = [0; 4096];
    match stream.read(&mut part)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => {
            got.extend_from_slice(&part[..count]);
            Ok(())
        }
    }
}

/// Reads until `got` has `words`, and the number after them; returns where they end.
fn read_until(stream: &mut TcpStream, got: &mut Vec<u8>, words: &[u8]) -> std::io::Result<usize> {
    loop {
        let found = got.windows(words.len()).position(|part| part == words);
        if let Some(found) = found.filter(|found| got.len() >= found + words.len() + 9) {
            return Ok(found + words.len());
        }
        read_some(stream, got)?;
    }
}

/// Waits for a command, and answers with a result.
fn answer(stream: &mut TcpStream, got: &mut Vec<u8>, name: &str, result: &[u8]) -> std::io::Result<()> {
    let end = read_until(stream, got, name.as_bytes())?;
    // The number of the transaction.
    let transaction = got[end..end + 9].to_vec();
    stream.write_all(&command(0, &[string("_result"), transaction, vec![5], result.to_vec()].concat()))
}

/// A command message in one chunk (AMF0); it is shorter than a chunk.
fn command(stream: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= 128);
    [&[3, 0, 0, 0, 0, 0, body.len() as u8, 20, stream, 0, 0, 0], body].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&[2, 0, text.len() as u8], text.as_bytes()].concat()
}

fn number(value: f64) -> Vec<u8> {
    [&[0][..], &value.to_be_bytes()].concat()
}

fn object(fields: &[(&str, &str)]) -> Vec<u8> {
    let field =
        |(name, value): &(&str, &str)| [&[0, name.len() as u8], name.as_bytes(), &string(value)].concat();
    [vec![3], fields.iter().flat_map(field).collect(), vec![0, 0, 9]].concat()
}

#[test]
fn publish_sh_sends_to_an_rtmp_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtmp://127.0.0.1:{}/live/key", listener.local_addr().unwrap().port());
    let _script = Script::start("publish.sh", &[&url, "the red fox", &model()]);
    let got = serve_rtmp(&listener, 20_000).unwrap();
    let has = |bytes: &[u8]| got.windows(bytes.len()).any(|part| part == bytes);
    // Headers of H.264 and of AAC, and a key frame.
    assert!(has(&[0x17, 0, 0, 0, 0, 1]) && has(&[0xaf, 0]) && has(&[0x17, 1]));
}

#[test]
fn switch_py_shows_the_next_source_from_a_key_frame_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("programme.mkv");
    let sink = format!(
        "x264enc tune=zerolatency key-int-max=1000 ! h264parse ! matroskamux ! filesink location=\"{}\"",
        out.display()
    );
    let properties = format!("{} prompt=\"the red fox\"", model());
    let mut script = Script::start("switch.py", &[&properties, &sink]);
    let mut said = BufReader::new(script.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || said.by_ref().find(|line| line.starts_with("shown: "));
    assert_eq!(next().as_deref(), Some("shown: the red fox"));
    let mut input = script.child.stdin.take().unwrap();
    input.write_all(b"a blue bird\n").unwrap();
    assert_eq!(next().as_deref(), Some("shown: a blue bird"));
    input.write_all(b"\n").unwrap();
    assert!(script.child.wait().unwrap().success());
    let encoded = samples(&format!("filesrc location=\"{}\" ! matroskademux ! h264parse", out.display()));
    let keys = encoded
        .iter()
        .filter(|sample| !sample.buffer().unwrap().flags().contains(gst::BufferFlags::DELTA_UNIT));
    assert_eq!(keys.count(), 2);
}

#[test]
fn a_generated_picture_is_mixed_with_alpha() {
    let generated = format!("soragen {} prompt=\"the red fox\" watermark=false num-buffers=4", model());
    // Without colours, which the formats between have at half the size.
    let alone = samples(&format!("{generated} ! videoconvert ! video/x-raw,format=GRAY8"));
    let mixed = parse(&format!(
        "compositor name=mix background=black sink_0::alpha=0.5 ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=sink sync=false \
         {generated} ! videoconvert ! video/x-raw,format=AYUV ! mix.sink_0"
    ));
    let sink = mixed.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    mixed.set_state(gst::State::Playing).unwrap();
    let mixed: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(mixed.len(), 4);
    let (whole, half) = (pixels(&alone[2]), pixels(&mixed[2]));
    let off = whole.iter().zip(&half).map(|(a, b)| (f32::from(*a) / 2.0 + 8.0 - f32::from(*b)).abs());
    // Black is 16.
    let mean = off.sum::<f32>() / whole.len() as f32;
    assert!(mean < 2.0, "{mean}");
}

#[test]
fn another_pipeline_takes_the_picture() {
    let from = parse(&format!(
        "soragen is-live=true slate=black {} prompt=\"the red fox\" ! videoconvert ! intervideosink channel=soragen-test",
        model()
    ));
    let to = parse(
        "intervideosrc channel=soragen-test ! videoconvert ! video/x-raw,format=RGB,width=48,height=16 ! appsink name=sink sync=false",
    );
    from.set_state(gst::State::Playing).unwrap();
    to.set_state(gst::State::Playing).unwrap();
    let sink = to.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    // Black until the first frame comes.
    let shown = std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| pixels(&sample));
    assert!(shown.take(1000).any(|pixels| pixels.iter().any(|&sample| sample > 100)));
}
