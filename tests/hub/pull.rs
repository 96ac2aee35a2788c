//! Downloads from a hub server.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use soragen::checkpoint::Parts;
use soragen::hub::{Hub, HubName};
use soragen::{Cancel, Error, ModelInfo};
use soragen_tests::fixtures;
use soragen_tests::hub::{self, COMMIT, HubRequest, Reply, Server};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

fn fixture() -> PathBuf {
    fixtures::path("layouts/wan-2.1")
}

/// A server and an empty cache.
struct TestHub {
    server: Server,
    folder: tempfile::TempDir,
    hub: Hub,
}

fn test_hub(change_reply: impl Fn(&HubRequest, &mut Reply) + Send + Sync + 'static) -> TestHub {
    hub_serving(&fixture(), change_reply)
}

fn hub_serving(
    model: &Path,
    change_reply: impl Fn(&HubRequest, &mut Reply) + Send + Sync + 'static,
) -> TestHub {
    let server = Server::start(model, change_reply);
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: server.endpoint.clone(),
        cache: folder.path().join("hub"),
        token: Some("secret".into()),
        offline: false,
    };
    TestHub { server, folder, hub }
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap().unwrap()
}

fn model() -> HubName {
    name("hf:some/model")
}

impl TestHub {
    fn pull(&self) -> soragen::Result<PathBuf> {
        self.hub.pull(&model(), &Cancel::new(), &mut |_| {})
    }

    fn download_error(&self) -> String {
        match self.pull() {
            Err(error @ Error::Download { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The incomplete download, if there is one.
    fn incomplete_file(&self) -> Option<PathBuf> {
        let blobs = self.hub.cache.join("models--some--model/blobs");
        let mut entries = std::fs::read_dir(blobs).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.find(|path| path.extension().is_some_and(|e| e == "incomplete"))
    }

    /// Asserts that there are no files outside of the cache.
    fn assert_nothing_outside_the_cache(&self) {
        let outside: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(outside.iter().all(|name| name == "hub"), "{outside:?}");
    }
}

fn assert_complete(snapshot: &Path) {
    for path in ["model_index.json", "tokenizer/tokenizer.json", "vae/config.json", WEIGHTS] {
        let (downloaded, expected) =
            (std::fs::read(snapshot.join(path)), std::fs::read(fixture().join(path)));
        assert!(downloaded.unwrap() == expected.unwrap(), "{path}");
    }
}

#[test]
fn the_cache_has_the_layout_of_huggingface_hub() {
    let test = test_hub(|_, _| {});
    let (mut last, mut files) = ((0, 0), Vec::new());
    let snapshot = test.hub.pull(&model(), &Cancel::new(), &mut |at| {
        assert!(at.received >= last.0 && at.received <= at.total, "{at:?} after {last:?}");
        last = (at.received, at.total);
        files.push(at.file.clone());
    });
    let snapshot = snapshot.unwrap();
    assert!(last.0 == last.1 && last.1 > 1_500_000, "{last:?}");
    assert!(files.iter().any(|file| file == WEIGHTS));
    assert_eq!(snapshot, test.hub.cache.join("models--some--model/snapshots").join(COMMIT));
    assert_complete(&snapshot);
    let reference = test.hub.cache.join("models--some--model/refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);
    let link = std::fs::read_link(snapshot.join(WEIGHTS)).unwrap();
    let etag = hub::etag(WEIGHTS, &std::fs::read(fixture().join(WEIGHTS)).unwrap());
    assert_eq!(link, Path::new("../../../blobs").join(etag));
    // Files that the engine does not read are not downloaded.
    assert!(!snapshot.join("tokenizer/tokenizer_config.json").exists());
    let asked = test.server.asked();
    let tokens = |host: &str| {
        asked.iter().filter(|a| a.host.starts_with(host)).map(|a| a.token.as_deref()).collect::<Vec<_>>()
    };
    assert!(tokens("127.0.0.1").iter().all(|token| *token == Some("secret")));
    assert!(!tokens("localhost").is_empty() && tokens("localhost").iter().all(Option::is_none), "{asked:?}");

    // The engine and a second pull find it.
    assert_eq!(test.hub.find(&model()).unwrap(), snapshot);
    assert_eq!(test.hub.list(), [model()]);
    assert_eq!(test.pull().unwrap(), snapshot);
    assert_eq!(test.server.asked().len(), 1, "only the revision is requested");
    let info = ModelInfo::read(snapshot.to_str().unwrap(), &Parts::default()).unwrap();
    assert_eq!(info.name, "model");
    test.assert_nothing_outside_the_cache();
}

#[test]
fn the_shards_in_an_index_are_downloaded() {
    let folder = tempfile::tempdir().unwrap();
    fixtures::copy(&fixture(), folder.path());
    let path = |name: &str| folder.path().join("transformer").join(name);
    std::fs::rename(folder.path().join(WEIGHTS), path("part-1.safetensors")).unwrap();
    let index = |name: &str| {
        let index = serde_json::json!({ "weight_map": { "w": name } }).to_string();
        std::fs::write(path("diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    };
    index("part-1.safetensors");
    let test = hub_serving(folder.path(), |_, _| {});
    let snapshot = test.pull().unwrap();
    assert!(snapshot.join("transformer/part-1.safetensors").is_file());
    for hostile in
        ["../part-1.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "x.sh", "%2e%2e.safetensors"]
    {
        index(hostile);
        let test = hub_serving(folder.path(), |_, _| {});
        let error = test.download_error();
        assert!(error.contains("may only list file names in its folder"), "{hostile}: {error}");
        test.assert_nothing_outside_the_cache();
    }
}

#[test]
fn an_interrupted_download_is_resumed() {
    // Every connection fails, and the download resumes by itself.
    let unstable = test_hub(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            reply.cut = Some(400_000);
        }
    });
    assert_complete(&unstable.pull().unwrap());
    let from: Vec<_> = unstable
        .server
        .asked()
        .into_iter()
        .filter(|a| a.path.starts_with("/large/some/model/transformer"))
        .map(|a| a.from)
        .collect();
    assert_eq!(from, [0, 400_000, 800_000]);

    // The server fails, and a later download resumes.
    let mut broken = test_hub(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            reply.cut = Some(if asked.from == 0 { 300_000 } else { 0 });
        }
    });
    let error = broken.download_error();
    assert!(error.contains("300000 of 1119520") && error.contains("resumes from there"), "{error}");
    assert!(broken.hub.find(&model()).is_err());
    assert_eq!(broken.incomplete_file().unwrap().metadata().unwrap().len(), 300_000);
    let correct = Server::start(&fixture(), |_, _| {});
    broken.hub.endpoint.clone_from(&correct.endpoint);
    assert_complete(&broken.pull().unwrap());
    let again: Vec<_> =
        correct.asked().into_iter().filter(|a| a.path.starts_with("/large/some/model/transformer")).collect();
    assert_eq!(again.iter().map(|a| a.from).collect::<Vec<_>>(), [300_000]);
    assert_eq!(broken.incomplete_file(), None);
}

#[test]
fn a_server_without_ranges_sends_the_whole_file_again() {
    let first = AtomicUsize::new(0);
    let test = test_hub(move |asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            let body = std::fs::read(fixture().join(WEIGHTS)).unwrap();
            *reply = Reply { status: 200, body, ..Reply::default() };
            reply.cut = (first.fetch_add(1, Ordering::Relaxed) == 0).then_some(400_000);
        }
    });
    assert_complete(&test.pull().unwrap());
}

#[test]
fn a_cancel_stops_a_download_that_hangs() {
    // This test hangs if a request cannot be cancelled.
    for path in ["/api/", "/moved/", "/large/"] {
        let test = test_hub(move |asked, reply| {
            if asked.path.starts_with(path) {
                reply.set("content-length", reply.body.len().max(1));
                reply.hang = Some(reply.body.len() / 2);
            }
        });
        let (cancel, hub) = (Cancel::new(), test.hub.clone());
        let pulling = std::thread::spawn({
            let cancel = cancel.clone();
            move || hub.pull(&model(), &cancel, &mut |_| {})
        });
        while !test.server.asked().iter().any(|asked| asked.path.starts_with(path)) {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(pulling.join().unwrap(), Err(Error::Cancelled)), "{path}");
    }
}

#[test]
fn a_cancelled_download_keeps_its_bytes() {
    let test = test_hub(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") && asked.from == 0 {
            reply.hang = Some(300_000);
        }
    });
    let cancel = Cancel::new();
    let cancelled = test.hub.pull(&model(), &cancel, &mut |at| {
        // All bytes of this connection.
        if at.file == WEIGHTS
            && test.incomplete_file().is_some_and(|part| part.metadata().unwrap().len() == 300_000)
        {
            cancel.cancel();
        }
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    test.server.asked();
    assert_complete(&test.pull().unwrap());
    assert!(test.server.asked().iter().any(|asked| asked.from == 300_000));
}

#[test]
fn error_responses_name_the_remedy() {
    for (at, status, words) in [
        ("/api/", 401, ["some/model", "HF_TOKEN"]),
        ("/api/", 403, ["terms", "HF_TOKEN"]),
        ("/api/", 404, ["404", "revision"]),
        ("/api/", 429, ["too many requests", "later"]),
        ("/api/", 503, ["503", "later"]),
        ("/moved/", 404, ["404", ".json"]),
        ("/large/", 403, ["403", ".safetensors"]),
        ("/large/", 500, ["500", ".safetensors"]),
    ] {
        let test = test_hub(move |asked, reply| {
            if asked.path.starts_with(at) {
                *reply = Reply::status(status);
            }
        });
        let error = test.download_error();
        assert!(words.iter().all(|word| error.contains(word)), "{at} {status}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let mut gone = test_hub(|_, _| {});
    gone.hub.endpoint = "http://127.0.0.1:1".into();
    assert!(gone.download_error().contains("HF_ENDPOINT"));
    let page = test_hub(|asked, reply| {
        if asked.path.starts_with("/api/") {
            reply.body = b"<html>Log in to this network</html>".to_vec();
        }
    });
    assert!(page.download_error().contains("HF_ENDPOINT"));
}

#[test]
fn a_file_of_another_length_is_an_error() {
    // The hub states one length, the server of large files sends another.
    for (size, words) in
        [(1_119_519, "longer"), (1_119_521, "1119520 of 1119521"), (u64::MAX, "of 18446744073709551615")]
    {
        let test = test_hub(move |asked, reply| {
            if asked.path.ends_with(WEIGHTS) && reply.status == 302 {
                reply.set("x-linked-size", size);
            }
        });
        let error = test.download_error();
        assert!(error.contains(words), "{size}: {error}");
        assert!(test.hub.find(&model()).is_err());
    }
}

#[test]
fn a_file_with_another_digest_is_an_error() {
    for (at, path) in
        [("/large/some/model/transformer", WEIGHTS), ("/moved/some/model/vae/config.json", "vae/config.json")]
    {
        let mut test = test_hub(move |asked, reply| {
            if asked.path.starts_with(at)
                && let Some(last) = reply.body.last_mut()
            {
                *last ^= 1;
            }
        });
        let error = test.download_error();
        assert!(error.contains(path) && error.contains("digest"), "{error}");
        assert!(test.hub.find(&model()).is_err());
        assert_eq!(test.incomplete_file(), None, "it is removed");
        let blob = hub::etag(path, &std::fs::read(fixture().join(path)).unwrap());
        assert!(!test.hub.cache.join("models--some--model/blobs").join(blob).exists());
        // A correct server sends the whole file.
        let sound = Server::start(&fixture(), |_, _| {});
        test.hub.endpoint.clone_from(&sound.endpoint);
        assert_complete(&test.pull().unwrap());
        assert!(sound.asked().iter().all(|asked| asked.from == 0));
    }
}

#[test]
fn no_response_writes_outside_the_cache() {
    for etag in
        ["\"../../../../beside\"", "\"/tmp/beside\"", "\"a/b\"", "\"..\"", "\"\"", "\".hidden\"", "\"a b\""]
    {
        let test = test_hub(move |asked, reply| {
            if asked.path.ends_with(WEIGHTS) {
                reply.set("x-linked-etag", etag);
            }
        });
        assert!(test.download_error().contains("HF_ENDPOINT"), "{etag}");
        test.assert_nothing_outside_the_cache();
    }
    for commit in ["../../../beside", "main", "", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let test = test_hub(move |asked, reply| {
            if asked.path.starts_with("/api/") {
                reply.body = String::from_utf8(reply.body.clone()).unwrap().replace(COMMIT, commit).into();
            }
        });
        assert!(test.download_error().contains("HF_ENDPOINT"), "{commit}");
        assert!(!test.hub.cache.exists());
    }
    // Paths in the listing are compared, not followed.
    let listing = test_hub(|asked, reply| {
        if asked.path.starts_with("/api/") {
            let text = String::from_utf8(reply.body.clone()).unwrap();
            reply.body = text.replace("vae/config.json", "../../vae/config.json").into();
        }
    });
    assert!(listing.download_error().contains("there is no vae/config.json"));
    listing.assert_nothing_outside_the_cache();
    // References in the cache are not followed either.
    let local = test_hub(|_, _| {});
    let refs = local.hub.cache.join("models--some--model/refs");
    std::fs::create_dir_all(&refs).unwrap();
    std::fs::write(refs.join("main"), "../../../beside").unwrap();
    assert!(local.hub.find(&model()).is_err());
}

#[test]
fn the_error_for_another_layout_names_the_right_repository() {
    let test = hub_serving(&fixtures::path("layouts/wan-2.1/transformer"), |_, _| {});
    assert!(test.download_error().contains("-Diffusers"));
}

#[test]
fn offline_uses_the_cache_and_sends_no_request() {
    let mut test = test_hub(|_, _| {});
    test.hub.offline = true;
    let error = test.download_error();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    test.hub.offline = false;
    let snapshot = test.pull().unwrap();
    test.hub.offline = true;
    test.server.asked();
    assert_eq!(test.pull().unwrap(), snapshot);
    // A commit is its own revision.
    assert_eq!(test.hub.find(&name(&format!("hf:some/model@{COMMIT}"))).unwrap(), snapshot);
    std::fs::remove_file(snapshot.join("vae/config.json")).unwrap();
    assert!(test.download_error().contains("not all of it"));
    assert!(test.server.asked().is_empty());
}

#[test]
fn revisions_are_requested_and_cached_separately() {
    let test = test_hub(|_, _| {});
    let branch = name("hf:some/model@refs/pr/3");
    test.hub.pull(&branch, &Cancel::new(), &mut |_| {}).unwrap();
    assert_eq!(test.server.asked()[0].path, "/api/models/some/model/revision/refs%2Fpr%2F3");
    assert!(test.hub.find(&branch).is_ok());
    assert!(test.hub.find(&model()).is_err());
}
