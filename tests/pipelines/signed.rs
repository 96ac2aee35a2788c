//! Files of `c2pasink`, verified with the C2PA library.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gst::prelude::*;
use gstsoraprovenance::credentials::{ManifestReport, State, read, test_chain};
use soragen_tests::fixtures::{path, puppets};

use crate::support::{init, parse, samples};

/// A folder with a certificate, its private key and its authority.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let chain = test_chain("the test").unwrap();
        for (name, text) in
            [("certificate", chain.certificate), ("key", chain.private_key), ("authority", chain.authority)]
        {
            std::fs::write(folder.path(name), text).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.path("out.mp4")
    }

    /// `c2pasink` with the private key.
    fn sink(&self) -> String {
        format!("{} private-key=\"{}\"", self.sink_without_key(), self.path("key").display())
    }

    fn sink_without_key(&self) -> String {
        let (out, certificate) = (self.out(), self.path("certificate"));
        format!("c2pasink location=\"{}\" certificate=\"{}\"", out.display(), certificate.display())
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !["certificate", "key", "authority"].contains(&name.as_str()));
        names.sort();
        names
    }

    fn report(&self) -> ManifestReport {
        read(&self.out(), None).unwrap().unwrap()
    }
}

/// One second of the tiny model.
fn source() -> String {
    format!("soragen model=\"{}\" prompt=\"the red fox\" duration=1000000000", path("miniature").display())
}

/// Plays to the end. Returns the last element message `name`, if any, or the error.
fn play(description: &str, name: &str) -> Result<Option<gst::Structure>, gst::glib::Error> {
    let pipeline = parse(description);
    let bus = pipeline.bus().unwrap();
    // The error is on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    let mut seen = None;
    let end = loop {
        let message = bus.timed_pop(None).unwrap();
        match message.view() {
            gst::MessageView::Eos(_) => break Ok(seen),
            gst::MessageView::Error(error) => break Err(error.error()),
            _ if message.has_name(name) => seen = message.structure().map(ToOwned::to_owned),
            _ => {}
        }
    };
    pipeline.set_state(gst::State::Null).unwrap();
    end
}

/// Number of frames in a file.
fn frame_count(file: &Path) -> usize {
    samples(&format!("filesrc location=\"{}\" ! qtdemux ! h264parse ! avdec_h264", file.display())).len()
}

const UNTRUSTED: &str = "signingCredential.untrusted";

#[test]
fn every_mp4_layout_is_signed_and_playable() {
    for muxer in ["mp4mux", "mp4mux faststart=true", "mp4mux fragment-duration=250", "qtmux"] {
        let folder = Folder::new();
        let out = folder.out();
        let description = format!("{} ! x264enc ! {muxer} ! {}", source(), folder.sink());
        let signed = play(&description, "c2pa-signed").unwrap().expect(muxer);
        // As many frames as without a signature. (GStreamer 1.22 loses the last two frames of fragmented files.)
        let plain = folder.path("key.plain");
        play(&format!("{} ! x264enc ! {muxer} ! filesink location=\"{}\"", source(), plain.display()), "")
            .unwrap();
        let count = frame_count(&plain);
        std::fs::remove_file(plain).unwrap();
        assert!(count >= 14 && frame_count(&out) == count, "{muxer}: {count}");
        assert_eq!(folder.names(), ["out.mp4"], "{muxer}");

        let report = folder.report();
        assert_eq!((report.state, &report.problems), (State::Valid, &vec![UNTRUSTED.into()]), "{muxer}");
        assert_eq!(report.manifest, signed.get::<String>("manifest").unwrap(), "{muxer}");
        assert!(report.generated && report.time.is_some(), "{report:?}");
        assert_eq!(report.software, Some(("soragen".into(), env!("CARGO_PKG_VERSION").into())));
        assert_eq!(report.models, ["miniature"], "{report:?}");
        assert_eq!(report.signer, ["the test", "Test signer, not to be trusted"]);
        assert!(report.prompts.is_empty() && report.provider.is_none(), "{report:?}");

        let anchors = std::fs::read_to_string(folder.path("authority")).unwrap();
        let trusted = read(&out, Some(&anchors)).unwrap().unwrap();
        assert_eq!((trusted.state, trusted.problems), (State::Trusted, vec![]), "{muxer}");
        let another = test_chain("another").unwrap().authority;
        assert_eq!(read(&out, Some(&another)).unwrap().unwrap().state, State::Valid);

        let bytes = std::fs::read(&out).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let xmp = "Iptc4xmpExt:DigitalSourceType=\"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\"";
        assert!(text.contains(xmp), "{muxer}");
        assert!(
            !text.contains("red fox") && !text.contains("negative_prompt"),
            "{muxer}: tags have the prompt"
        );
    }
}

#[test]
fn the_manifest_has_the_watermark_id() {
    let folder = Folder::new();
    let description = |more: &str| format!("{} {more} ! x264enc ! mp4mux ! {}", source(), folder.sink());
    let shot = play(&description(""), "soragen-shot").unwrap().unwrap();
    let id = shot.get::<u64>("generation-id").unwrap();
    assert_eq!(folder.report().generation_ids, [format!("{id:010x}")]);
    play(&description("seed=1"), "").unwrap();
    assert_ne!(folder.report().generation_ids, [format!("{id:010x}")], "another video, another id");
    play(&description("watermark=false"), "").unwrap();
    assert!(folder.report().generation_ids.is_empty(), "without a watermark there is no id");
}

#[test]
fn prompt_and_provider_are_in_the_manifest_if_enabled() {
    let folder = Folder::new();
    let board = "storyboard=\"\\\"0:00 the red fox | 0:00.5 a blue bird | 0:01\\\"\"";
    let sink = format!("{} embed-prompt=true provider=\"The House\"", folder.sink());
    play(&format!("{} {board} ! x264enc ! mp4mux ! {sink}", source()), "").unwrap();
    let report = folder.report();
    assert_eq!(report.prompts, ["the red fox", "a blue bird"]);
    assert_eq!(report.provider.as_deref(), Some("The House"));
    let bytes = std::fs::read(folder.out()).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("negative_prompt"), "the request is in the comment");
    assert_eq!(report.state, State::Valid);
}

/// A signed image in `folder`, and the label of its manifest.
fn signed_picture(folder: &Folder) -> (PathBuf, String) {
    let bytes = |name: &str| std::fs::read(folder.path(name)).unwrap();
    let signer =
        c2pa::create_signer::from_keys(&bytes("certificate"), &bytes("key"), c2pa::SigningAlg::Es256, None);
    let mut plain = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(48, 16, image::Rgb([200, 30, 20]));
    picture.write_to(&mut plain, image::ImageFormat::Png).unwrap();
    plain.set_position(0);
    let claim = serde_json::json!({
        "claim_generator_info": [{ "name": "a camera" }],
        "assertions": [{
            "label": "c2pa.actions.v2",
            "data": { "actions": [{
                "action": "c2pa.created",
                "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
            }] },
        }],
    });
    let mut builder = c2pa::Builder::from_context(c2pa::Context::new()).with_definition(claim).unwrap();
    let path = folder.path("picture.png");
    let mut out = std::io::Cursor::new(Vec::new());
    builder.sign(signer.unwrap().as_ref(), "image/png", &mut plain, &mut out).unwrap();
    std::fs::write(&path, out.into_inner()).unwrap();
    let name = read(&path, None).unwrap().unwrap().manifest;
    (path, name)
}

#[test]
fn the_manifest_of_an_input_image_is_kept() {
    let folder = Folder::new();
    let (picture, name) = signed_picture(&folder);
    let render =
        |source: &str| play(&format!("{source} ! x264enc ! mp4mux ! {}", folder.sink()), "").unwrap();
    render(&format!("{} image=\"{}\"", source(), picture.display()));
    let report = folder.report();
    assert_eq!((report.state, &report.problems), (State::Valid, &vec![UNTRUSTED.into()]), "{report:?}");
    assert_eq!(report.ingredients, [&*name]);
    assert!(report.generated && report.manifest != name, "{report:?}");
    let bytes = std::fs::read(folder.out()).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("picture.png"), "the file name is private");

    // In a storyboard, together with an unsigned image.
    let unsigned = image::RgbImage::from_pixel(48, 16, image::Rgb([20, 30, 200]));
    unsigned.save(folder.path("unsigned.png")).unwrap();
    let board = "[[shot]]\nprompt = \"a fox\"\nduration = 0.5\nimage = \"unsigned.png\"\n\
                 [[shot]]\nprompt = \"a fox\"\nduration = 0.5\nimage = \"picture.png\"\ntransition = \"cut\"";
    std::fs::write(folder.path("film.toml"), board).unwrap();
    let model = path("miniature");
    let film = folder.path("film.toml");
    render(&format!("soragen model=\"{}\" storyboard=\"{}\"", model.display(), film.display()));
    assert_eq!(folder.report().ingredients, [&*name]);

    // As a reference.
    let puppets = puppets();
    let model = puppets.path().display();
    render(&format!(
        "soragen model=\"{model}\" prompt=\"a fox\" reference=\"bank:fox; {}\"",
        picture.display()
    ));
    assert_eq!(folder.report().ingredients, [&*name]);
    render(&source());
    assert!(folder.report().ingredients.is_empty());
}

#[test]
fn a_restyled_video_was_edited_and_keeps_the_manifest_of_the_video_before() {
    let folder = Folder::new();
    play(&format!("{} ! x264enc ! mp4mux ! {}", source(), folder.sink()), "").unwrap();
    let (name, before) = (folder.report().manifest, folder.path("before.mp4"));
    std::fs::rename(folder.out(), &before).unwrap();
    let restyle = |more: &str| {
        play(
            &format!(
                "filesrc location=\"{}\" ! decodebin ! videoconvert ! sorafilter model=\"{}\" prompt=snow {more} ! x264enc ! \
                 mp4mux ! {}",
                before.display(),
                path("miniature").display(),
                folder.sink()
            ),
            "",
        )
        .unwrap();
    };
    restyle(&format!("ingredient=\"{}\"", before.display()));
    let report = folder.report();
    assert_eq!((report.state, report.generated), (State::Valid, true), "{report:?}");
    assert_eq!(report.ingredients, [&*name]);
    let bytes = std::fs::read(folder.out()).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("c2pa.edited") && text.contains("compositeWithTrainedAlgorithmicMedia"));
    assert!(!text.contains("before.mp4"), "the file name is private");
    restyle("");
    assert!(folder.report().ingredients.is_empty() && folder.report().generated);
}

/// Signs the file `from` again, into the folder's output.
fn sign_again(folder: &Folder, from: &Path, more: &str) {
    let description =
        format!("filesrc location=\"{}\" ! {} model=another {more}", from.display(), folder.sink());
    play(&description, "").unwrap();
}

#[test]
fn signing_again_keeps_the_earlier_manifest_and_one_xmp_packet() {
    for muxer in ["mp4mux", "mp4mux fragment-duration=250", "qtmux", "mp4mux faststart=true"] {
        let folder = Folder::new();
        let sink = format!("{} embed-prompt=true", folder.sink());
        play(&format!("{} ! x264enc ! {muxer} ! {sink}", source()), "").unwrap();
        let mut earlier = folder.report();
        let frames = frame_count(&folder.out());
        for round in ["second", "third"] {
            let from = folder.path(round);
            std::fs::rename(folder.out(), &from).unwrap();
            sign_again(&folder, &from, "provider=\"The Second\"");
            let report = folder.report();
            assert_eq!((report.state, &report.problems), (State::Valid, &vec![UNTRUSTED.into()]), "{muxer}");
            assert_eq!(report.ingredients, [earlier.manifest.clone()], "{muxer}, {round}");
            assert!(report.generated && report.time.is_some(), "{report:?}");
            assert_eq!((&report.models[..], &report.prompts[..]), (&["another".to_owned()][..], &[][..]));
            assert_ne!(report.manifest, earlier.manifest);
            let bytes = std::fs::read(folder.out()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            for part in ["<?xpacket begin", "<TC260:AIGC>", "AISystemUsed="] {
                assert_eq!(text.matches(part).count(), 1, "{muxer}, {round}: {part}");
            }
            assert!(!text.contains("AIPromptInformation"), "{muxer}, {round}");
            assert_eq!(frame_count(&folder.out()), frames, "{muxer}, {round}");
            // The earlier one is kept whole.
            let reader = c2pa::Reader::from_context(c2pa::Context::new());
            let reader = reader.with_stream("video/mp4", std::io::Cursor::new(&bytes)).unwrap();
            let parent = reader.active_manifest().unwrap().ingredients().first().unwrap();
            assert!(parent.is_parent(), "{muxer}, {round}");
            assert!(reader.get_manifest(&earlier.manifest).is_some(), "{muxer}, {round}");
            earlier = report;
        }
    }
}

#[test]
fn a_changed_file_can_be_signed_again_and_its_manifest_stays_invalid() {
    let folder = Folder::new();
    play(&format!("{} ! x264enc ! mp4mux ! {}", source(), folder.sink()), "").unwrap();
    let manifest = folder.report().manifest;
    let mut bytes = std::fs::read(folder.out()).unwrap();
    let media = bytes.windows(4).position(|window| window == b"mdat").unwrap();
    bytes[media + 40] ^= 1;
    std::fs::write(folder.path("changed"), bytes).unwrap();
    assert_eq!(read(&folder.path("changed"), None).unwrap().unwrap().state, State::Invalid);
    sign_again(&folder, &folder.path("changed"), "");
    let report = folder.report();
    assert_eq!((report.state, report.ingredients), (State::Valid, vec![manifest]));
    let bytes = std::fs::read(folder.out()).unwrap();
    let reader = c2pa::Reader::from_context(c2pa::Context::new());
    let reader = reader.with_stream("video/mp4", std::io::Cursor::new(&bytes)).unwrap();
    let text = reader.json();
    assert!(text.contains("assertion.bmffHash.mismatch"), "the parent is not valid: {text}");
}

#[test]
fn a_manifest_is_found_whatever_the_name_is() {
    let folder = Folder::new();
    play(&format!("{} ! x264enc ! mp4mux ! {}", source(), folder.sink()), "").unwrap();
    let manifest = folder.report().manifest;
    for name in ["film", "film.mkv", "film.jpg", "film.y4m", "film.MP4", "film.part", "film.svg"] {
        std::fs::copy(folder.out(), folder.path(name)).unwrap();
        let report = read(&folder.path(name), None).unwrap().expect(name);
        assert_eq!((report.state, &report.manifest), (State::Valid, &manifest), "{name}");
    }
    // An input image too.
    let (picture, name) = signed_picture(&folder);
    let renamed = folder.path("picture.jpeg");
    std::fs::rename(picture, &renamed).unwrap();
    let image = format!("{} image=\"{}\" ! x264enc ! mp4mux", source(), renamed.display());
    play(&format!("{image} ! {}", folder.sink()), "").unwrap();
    assert_eq!(folder.report().ingredients, [name]);
    // What has no manifest has none, whatever its name is.
    for (name, content) in
        [("text.mp4", &b"this is no video"[..]), ("empty.png", b""), ("short.mov", b"\0\0")]
    {
        std::fs::write(folder.path(name), content).unwrap();
        assert_eq!(read(&folder.path(name), None).unwrap(), None, "{name}");
    }
}

#[test]
fn a_last_box_of_size_0_is_accepted() {
    for (muxer, last) in [("mp4mux", b"moov"), ("mp4mux faststart=true", b"mdat"), ("qtmux", b"moov")] {
        let folder = Folder::new();
        let plain = folder.path("plain");
        let clip = "videotestsrc num-buffers=9 ! x264enc";
        play(&format!("{clip} ! {muxer} ! filesink location=\"{}\"", plain.display()), "").unwrap();
        let mut bytes = std::fs::read(&plain).unwrap();
        let at = bytes.windows(4).position(|window| window == last).unwrap();
        bytes[at - 4..at].fill(0);
        std::fs::write(&plain, bytes).unwrap();
        sign_again(&folder, &plain, "");
        assert_eq!((folder.report().state, frame_count(&folder.out())), (State::Valid, 9), "{muxer}");
    }
}

#[test]
#[cfg(unix)]
fn only_regular_files_are_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};

    let folder = Folder::new();
    let out = folder.out();
    let clip = "videotestsrc num-buffers=9 ! x264enc ! mp4mux";
    let sink = format!("{} model=another", folder.sink());
    // Refused before anything is written. `fakesrc` has no video: the error is the first one.
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    std::fs::create_dir(folder.path("folder")).unwrap();
    symlink("/dev/full", folder.path("full")).unwrap();
    let names = folder.names();
    let path = |name: &str| folder.path(name).display().to_string();
    for (location, reason) in [
        (path("socket"), "socket"),
        (path("folder"), "folder"),
        (path("full"), "device"),
        ("/dev/full".into(), "device"),
        ("/dev/zero".into(), "device"),
    ] {
        let sink = sink.replace(&out.display().to_string(), &location);
        let error = play(&format!("fakesrc ! {sink}"), "").unwrap_err();
        assert!(error.matches(gst::ResourceError::OpenWrite) && error.message().contains(reason), "{error}");
        assert_eq!(folder.names(), names);
    }
    for device in ["/dev/full", "/dev/zero"] {
        assert!(Path::new(device).symlink_metadata().unwrap().file_type().is_char_device());
    }

    // Written through.
    symlink("/dev/null", &out).unwrap();
    let signed = play(&format!("{clip} ! {sink}"), "c2pa-signed").unwrap().unwrap();
    assert_eq!(signed.get::<String>("location").unwrap(), out.display().to_string());
    assert!(Path::new("/dev/null").symlink_metadata().unwrap().file_type().is_char_device());
    assert!(out.is_symlink());
    std::fs::remove_file(&out).unwrap();
    assert!(Command::new("mkfifo").arg(&out).status().unwrap().success());
    let reader = std::thread::spawn({
        let out = out.clone();
        move || std::fs::read(out).unwrap()
    });
    play(&format!("{clip} ! {sink}"), "").unwrap();
    assert!(out.symlink_metadata().unwrap().file_type().is_fifo());
    std::fs::write(folder.path("copy"), reader.join().unwrap()).unwrap();
    let report = read(&folder.path("copy"), None).unwrap().unwrap();
    assert_eq!((report.state, frame_count(&folder.path("copy"))), (State::Valid, 9));

    // The target of a link is written.
    std::fs::remove_file(&out).unwrap();
    symlink("target", &out).unwrap();
    play(&format!("{clip} ! {sink}"), "").unwrap();
    assert!(out.is_symlink() && read(&folder.path("target"), None).unwrap().is_some());
}

#[test]
fn any_flipped_byte_invalidates_the_manifest() {
    for muxer in ["mp4mux", "mp4mux fragment-duration=250"] {
        let folder = Folder::new();
        play(&format!("{} ! x264enc ! {muxer} ! {}", source(), folder.sink()), "").unwrap();
        let whole = std::fs::read(folder.out()).unwrap();
        let find = |what: &[u8]| whole.windows(what.len()).position(|window| window == what).unwrap();
        let places = [
            find(b"mdat") + 40,
            find(b"mvhd") + 20,
            find(b"trainedAlgorithmicMedia"),
            find(b"DigitalSourceType"),
        ];
        for place in places {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(folder.out(), &changed).unwrap();
            // A manifest that cannot be parsed is invalid too.
            if let Ok(report) = read(&folder.out(), None) {
                assert_eq!(report.unwrap().state, State::Invalid, "{muxer}, byte {place}");
            }
        }
        std::fs::write(folder.out(), &whole).unwrap();
        assert_eq!(folder.report().state, State::Valid);
    }
}

#[test]
fn an_unknown_model_is_an_error() {
    let folder = Folder::new();
    let clip = "videotestsrc num-buffers=9 ! x264enc ! mp4mux";
    let error = play(&format!("{clip} ! {}", folder.sink()), "").unwrap_err();
    assert!(error.matches(gst::ResourceError::Settings) && error.message().contains("model"), "{error}");
    assert_eq!(folder.names(), [""; 0]);
    play(&format!("{clip} ! {} model=another", folder.sink()), "").unwrap();
    assert_eq!(folder.report().models, ["another"]);
}

#[test]
fn an_unusable_signer_is_an_error_before_the_first_frame() {
    let folder = Folder::new();
    let other = Folder::new();
    let file = |path: PathBuf| path.display().to_string();
    let bare = folder.sink_without_key();
    for (sink, part) in [
        ("c2pasink".to_string(), "location"),
        (format!("c2pasink location={}", file(folder.out())), "soragen certificate"),
        ("c2pasink location=/nowhere/out.mp4".into(), "/nowhere"),
        (bare.clone(), "private-key"),
        (format!("{bare} private-key=/nowhere/key"), "/nowhere/key"),
        (format!("{bare} private-key={}", file(folder.path("authority"))), "authority"),
        (format!("{bare} private-key={} sign-command=cat", file(folder.path("key"))), "one of"),
        (format!("{bare} certificate={} sign-command=cat", file(folder.path("key"))), "key"),
    ] {
        let error = play(&format!("fakesrc ! {sink}"), "").unwrap_err();
        assert!(error.message().contains(part), "{part} in {error}");
        if part == "/nowhere/key" {
            assert!(error.matches(gst::ResourceError::OpenRead), "{error}");
        }
        assert_eq!(folder.names(), [""; 0]);
    }
    // The key of another certificate.
    let sink = format!("{bare} private-key={}", file(other.path("key")));
    let description = format!("{} ! x264enc ! mp4mux ! {sink}", source());
    assert!(play(&description, "").is_err());
    assert_eq!(folder.names(), [""; 0], "an unsigned file is not renamed");
}

#[test]
fn a_command_can_sign() {
    let folder = Folder::new();
    let sink = |command: &str| format!("{} sign-command=\"{command}\"", folder.sink_without_key());
    let pipeline = |command: &str| format!("{} ! x264enc ! mp4mux ! {}", source(), sink(command));
    let key = folder.path("key");
    play(&pipeline(&format!("openssl dgst -sha256 -sign '{}'", key.display())), "").unwrap();
    assert_eq!(folder.report().state, State::Valid);
    std::fs::remove_file(folder.out()).unwrap();
    for (command, part) in
        [("false", "false"), ("true", "signature"), ("/no/such/program", "/no/such/program")]
    {
        let error = play(&pipeline(command), "").unwrap_err();
        assert!(error.message().contains(part), "{part} in {error}");
        assert_eq!(folder.names(), [""; 0], "{command}");
    }
    // A command that hangs is stopped after the timeout.
    let error = play(&format!("{} sign-timeout=1", pipeline("sleep 600")), "").unwrap_err();
    assert!(error.message().contains("sleep") && error.message().contains("sign-timeout"), "{error}");
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_stopped_pipeline_leaves_no_file() {
    init();
    let folder = Folder::new();
    let source = source().replace("duration=1000000000", "duration=-1");
    let pipeline = parse(&format!("{source} ! x264enc ! mp4mux ! {}", folder.sink()));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let shot = bus.iter_timed(None).find(|message| message.has_name("soragen-shot"));
    assert!(shot.is_some() && folder.names().len() == 1, "{:?}", folder.names());
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_killed_process_leaves_only_the_temporary_file() {
    let folder = Folder::new();
    let plugins = tempfile::tempdir().unwrap();
    for name in ["libgstsoragen.so", "libgstsoraprovenance.so"] {
        let built = std::env::current_exe().unwrap().with_file_name(name);
        std::fs::copy(built, plugins.path().join(name)).unwrap();
    }
    let source = source().replace("duration=1000000000", "duration=-1");
    let description = format!("{source} ! x264enc ! mp4mux ! {}", folder.sink());
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec gst-launch-1.0 -m {description}")])
        .env("GST_PLUGIN_PATH", plugins.path())
        .env("GST_REGISTRY", plugins.path().join("registry"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // Kill it in the middle of the video.
    assert!(
        lines.take_while(|line| !line.contains("chunk=(guint64)3")).any(|line| line.contains("soragen-shot"))
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let names = folder.names();
    assert!(names.len() == 1 && names[0].ends_with(".part"), "{names:?}");
}
