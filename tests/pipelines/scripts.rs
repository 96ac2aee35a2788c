//! The scripts in `pipelines/`, with a tiny model, and the example applications.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gstsoraprovenance::credentials;
use soragen_tests::fixtures::path;

const CUES: &str =
    "1\n00:00:00,000 --> 00:00:01,000\nthe red fox\n\n2\n00:00:01,000 --> 00:00:02,000\n(cut) a blue bird\n";

fn model() -> String {
    format!("model={}", path("miniature").display())
}

/// Runs `pipelines/SCRIPT` with the plugin of this test; returns its stderr.
fn run(script: &str, arguments: &[&str]) -> String {
    run_with(script, arguments, "")
}

/// [`run`] with `input` on stdin.
fn run_with(script: &str, arguments: &[&str], input: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines").join(script);
    run_command(&mut Command::new(script), arguments, input)
}

/// Starts `command` with the plugins of this test, which are in a folder of their own.
pub fn spawn(command: &mut Command) -> (Child, tempfile::TempDir) {
    let plugins = tempfile::tempdir().unwrap();
    for name in ["libgstsoragen.so", "libgstsoraprovenance.so"] {
        let built = std::env::current_exe().unwrap().with_file_name(name);
        std::fs::copy(built, plugins.path().join(name)).unwrap();
    }
    let child = command
        .env("SORAGEN_PLUGINS", plugins.path())
        .env("GST_PLUGIN_PATH", plugins.path())
        .env("GST_REGISTRY", plugins.path().join("registry"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, plugins)
}

fn run_command(command: &mut Command, arguments: &[&str], input: &str) -> String {
    let (mut child, _plugins) = spawn(command.args(arguments));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Runs `pipelines/SCRIPT` with signing keys; returns the manifest of the file.
fn run_signed(script: &str, arguments: &[&str], out: &Path) -> credentials::ManifestReport {
    let keys = tempfile::tempdir().unwrap();
    let chain = credentials::test_chain("the test").unwrap();
    std::fs::write(keys.path().join("certificate.pem"), chain.certificate).unwrap();
    std::fs::write(keys.path().join("private-key.pem"), chain.private_key).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines").join(script);
    run_command(Command::new(script).env("SORAGEN_KEYS", keys.path()), arguments, "");
    credentials::read(out, None).unwrap().unwrap()
}

#[test]
fn every_script_that_writes_an_mp4_watermarks_and_signs_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("the film.srt"), CUES).unwrap();
    image::RgbImage::from_pixel(48, 16, image::Rgb([200, 30, 20])).save(path("a picture.png")).unwrap();
    let video =
        crate::support::samples("videotestsrc num-buffers=50 ! video/x-raw,width=64,height=32 ! y4menc");
    let video = video.iter().map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec());
    std::fs::write(path("my video.y4m"), video.collect::<Vec<_>>().concat()).unwrap();
    let files = ["the film.srt", "a picture.png", "my video.y4m", "out.mp4", "out.mov"]
        .map(|name| path(name).display().to_string());
    let [subtitles, picture, video, mp4, mov] = files.each_ref().map(String::as_str);
    // The frames of the tiny model are too small for a detection; those of the built-in model are not.
    let (fast, short) = ("steps=1", "duration=1000000000");
    // Prompts may contain gst-launch syntax.
    let sign = r#"a sign that says "open ! all \ night""#;
    let film = "0:00 the red fox | 0:01 (cut) a blue bird | 0:02";
    for (script, arguments, out) in [
        ("file.sh", &[sign, mp4, "16/1", fast, short][..], mp4),
        ("picture.sh", &[picture, "the red fox", mp4, fast, short], mp4),
        ("storyboard.sh", &[film, mp4, fast], mp4),
        ("subtitles.sh", &[subtitles, mp4, fast], mp4),
        ("camera.sh", &[video, subtitles, mp4, fast], mp4),
        ("broadcast.sh", &["the red fox", mov, fast, short], mov),
        ("restyle.sh", &[video, "the red fox", mp4, "strength=0.3"], mp4),
        ("extend.sh", &[video, "the red fox", mp4, fast, "duration=2000000000"], mp4),
    ] {
        let report = run_signed(script, arguments, Path::new(out));
        assert_eq!(report.state, credentials::State::Valid, "{script}");
        assert!(report.generated, "{script}: {report:?}");
        assert_eq!(report.generation_ids, [watermark_in(out)], "{script}");
        std::fs::remove_file(out).unwrap();
    }
}

/// The watermark id in the last shot of a file with shots of 16 frames, or with one shot.
fn watermark_in(file: &str) -> String {
    let detect = "decodebin ! videoconvert ! soradetect window=16 name=detect ! fakesink";
    let stats = crate::provenance::detection_stats(&format!("filesrc location=\"{file}\" ! {detect}"));
    let id = stats.get::<u64>("generation-id");
    format!("{:010x}", id.unwrap_or_else(|_| panic!("{file}: {stats}")))
}

#[test]
fn a_camera_is_restyled() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("camera.y4m");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/webcam.sh");
    let sink = format!("y4menc ! filesink location={}", out.display());
    let source = "videotestsrc num-buffers=8";
    let model = model();
    run_command(
        Command::new(script).env("SOURCE", source).env("SINK", sink),
        &["the red fox", &model, "strength=0.5", "rate-mode=every"],
        "",
    );
    let written = std::fs::read(&out).unwrap();
    assert_eq!(written.windows(5).filter(|bytes| bytes == b"FRAME").count(), 8);
}

#[test]
fn extend_sh_writes_both_parts() {
    let folder = tempfile::tempdir().unwrap();
    let [video, out] = ["video.mkv", "out.mp4"].map(|name| folder.path().join(name).display().to_string());
    let written = crate::support::samples(
        "videotestsrc num-buffers=32 ! video/x-raw,width=96,height=32,framerate=32/1 ! x264enc ! matroskamux streamable=true",
    );
    let bytes = written.iter().map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec());
    std::fs::write(&video, bytes.collect::<Vec<_>>().concat()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/extend.sh");
    let arguments = [&video, "the red fox", &out, &model(), "duration=1000000000"];
    run_command(Command::new(script).env("FORMAT", "width=48,height=16,framerate=16/1"), &arguments, "");
    // A second of each; `videorate` may repeat the last frame of the first.
    let count = frames(Path::new(&out)).0;
    assert!((32..=33).contains(&count), "{count}");
}

#[test]
fn overlay_sh_shows_the_background_behind_green() {
    let folder = tempfile::tempdir().unwrap();
    let [video, out] = ["green.mkv", "out.mp4"].map(|name| folder.path().join(name).display().to_string());
    let written = crate::support::samples(
        "videotestsrc pattern=green num-buffers=16 ! video/x-raw,width=160,height=96,framerate=16/1 ! x264enc \
         ! matroskamux streamable=true",
    );
    let bytes = written.iter().map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec());
    std::fs::write(&video, bytes.collect::<Vec<_>>().concat()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/overlay.sh");
    let arguments = [&video, "the red fox", &out, "steps=2", "duration=1500000000"];
    run_command(Command::new(script).env("SIZE", "width=320,height=192"), &arguments, "");
    watermark_in(&out);
}

#[test]
fn outputs_without_a_manifest_have_the_watermark() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("film.mkv").display().to_string();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/film.xges");
    run("film.sh", &[&project.to_string_lossy(), &out]);
    watermark_in(&out);
    let encoded = crate::support::samples(&format!("filesrc location=\"{out}\" ! matroskademux"));
    // Four seconds at 30 fps, the rate of the project.
    assert!((115..=125).contains(&encoded.len()), "{}", encoded.len());

    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let stream = folder.path().join("stream.ts");
    let file = stream.clone();
    let receiver = std::thread::spawn(move || {
        let (mut stream, mut packet) = (Vec::new(), [0; 2048]);
        // The last datagram is recognized by its length.
        while let Ok(length) = socket.recv(&mut packet) {
            if length == 1 {
                break;
            }
            stream.extend_from_slice(&packet[..length]);
        }
        std::fs::write(file, stream).unwrap();
    });
    run("live.sh", &["a cat at night", "127.0.0.1", &port, "steps=1", "num-buffers=32"]);
    let end = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    end.send_to(&[0], format!("127.0.0.1:{port}")).unwrap();
    receiver.join().unwrap();
    watermark_in(&stream.display().to_string());
}

/// Number of frames of an H.264 file at 16 fps, and the indices of its key frames.
fn frames(file: &Path) -> (usize, Vec<u64>) {
    let description = format!("filesrc location=\"{}\" ! qtdemux ! h264parse", file.display());
    let encoded = crate::support::samples(&description);
    let buffers = encoded.iter().map(|sample| sample.buffer().unwrap());
    let first = buffers.clone().map(|buffer| buffer.pts().unwrap()).min().unwrap();
    let keys = buffers.filter(|buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT));
    let number =
        |buffer: &gst::BufferRef| ((buffer.pts().unwrap() - first).nseconds() + 31_250_000) / 62_500_000;
    (encoded.len(), keys.map(number).collect())
}

#[test]
fn storyboard_sh_sets_key_frames_at_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let film = "0:00 the red fox | 0:01 (cut) a blue bird | 0:02 snow | 0:02.5 (cut) the green cat |
        0:03.5 (cut) a slow dog | 0:04.5 (cut) the sea | 0:06";
    let out = folder.path().join("film.mp4");
    run("storyboard.sh", &[film, &out.to_string_lossy(), &model()]);
    let (count, keys) = frames(&out);
    assert_eq!(count, 96);
    // The encoder may add more key frames.
    for cut in [0, 16, 40, 56, 72] {
        assert!(keys.contains(&cut), "{cut} in {keys:?}");
    }

    let subtitles = folder.path().join("film.srt");
    std::fs::write(&subtitles, CUES).unwrap();
    run("storyboard.sh", &[&subtitles.to_string_lossy(), &out.to_string_lossy(), &model()]);
    let (count, keys) = frames(&out);
    assert!(count == 32 && keys.contains(&16), "{count} {keys:?}");
}

#[test]
fn subtitles_sh_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (subtitles, out) = (folder.path().join("film.srt"), folder.path().join("film.mp4"));
    std::fs::write(&subtitles, CUES).unwrap();
    run("subtitles.sh", &[&subtitles.to_string_lossy(), &out.to_string_lossy(), &model()]);
    let (count, keys) = frames(&out);
    assert!(count == 32 && keys.contains(&16), "{count} {keys:?}");
}

#[test]
fn file_sh_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("video.mp4");
    run("file.sh", &["the red fox", &out.to_string_lossy(), "25/1", &model(), "duration=2000000000"]);
    let encoded = crate::support::samples(&format!("filesrc location=\"{}\" ! qtdemux", out.display()));
    assert_eq!(encoded.len(), 50);
}

#[test]
fn live_sh_sends_an_mpeg_ts_stream() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    run("live.sh", &["the red fox", "127.0.0.1", &port, &model(), "num-buffers=16"]);
    let mut packet = [0; 2048];
    let length = socket.recv(&mut packet).unwrap();
    // Transport stream packets have 188 bytes and start with 0x47 (G).
    assert!(length > 0 && length.is_multiple_of(188), "{length}");
    assert!(packet[..length].chunks(188).all(|packet| packet[0] == b'G'));
}

#[test]
fn picture_sh_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, out) = (folder.path().join("picture.png"), folder.path().join("video.mp4"));
    image::RgbImage::from_pixel(48, 16, image::Rgb([200, 30, 20])).save(&picture).unwrap();
    run(
        "picture.sh",
        &[&picture.to_string_lossy(), "the red fox", &out.to_string_lossy(), &model(), "duration=1000000000"],
    );
    assert_eq!(frames(&out).0, 16);
}

#[test]
fn camera_sh_starts_shots_from_a_video() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["film.srt", "video.mkv", "film.mp4"].map(|name| folder.path().join(name));
    let [subtitles, video, out] = paths.each_ref().map(|path| path.to_string_lossy());
    std::fs::write(&paths[0], CUES).unwrap();
    // 100 frames, longer than the subtitles.
    let written = crate::support::samples(
        "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=32 ! x264enc ! matroskamux streamable=true",
    );
    let bytes = written.iter().map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec());
    std::fs::write(&paths[1], bytes.collect::<Vec<_>>().concat()).unwrap();
    run("camera.sh", &[&video, &subtitles, &out, &model()]);
    let (count, keys) = frames(&paths[2]);
    assert!(count == 32 && keys.contains(&16), "{count} {keys:?}");
}

#[test]
fn broadcast_sh_writes_prores_with_time_codes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("video.mov");
    run("broadcast.sh", &["the red fox", &out.to_string_lossy(), &model(), "duration=500000000"]);
    let video = format!("filesrc location=\"{}\" ! qtdemux name=demuxer demuxer.video_0", out.display());
    let encoded = crate::support::samples(&video);
    let caps = encoded[0].caps().unwrap().to_string();
    for part in ["video/x-prores", "width=(int)1920", "height=(int)1080", "framerate=(fraction)25/1"] {
        assert!(caps.contains(part), "{part} in {caps}");
    }
    assert_eq!(encoded.len(), 13);
}

/// An endless source that the application stops.
fn endless() -> String {
    format!("soragen {} prompt=\"a red fox\" duration=-1", model())
}

#[test]
fn the_python_application_changes_the_prompt_and_exits() {
    let said = run_with("app.py", &[&endless(), "fakesink"], "\n");
    assert!(!said.contains("Error"), "{said}");
    let short = endless().replace("duration=-1", "duration=1000000000");
    let said = run_with("app.py", &[&short, "fakesink"], "a blue bird\n");
    assert!(said.contains("denoise") && said.contains("from frame"), "{said}");
}

#[test]
fn the_rust_application_changes_the_prompt_and_exits() {
    crate::support::init();
    let play = |source: &str, prompts: &'static str| {
        let mut said = Vec::new();
        crate::app::run(source, "fakesink", prompts.as_bytes(), &mut said).unwrap();
        String::from_utf8(said).unwrap()
    };
    play(&endless(), "\n");
    let said = play(&endless().replace("duration=-1", "duration=1000000000"), "a blue bird\n");
    assert!(said.contains("denoise") && said.contains("from frame"), "{said}");
    let broken = crate::app::run("soragen model=/no/such/model prompt=fox", "fakesink", &b""[..], Vec::new());
    assert!(broken.unwrap_err().to_string().contains("/no/such/model"));
}
