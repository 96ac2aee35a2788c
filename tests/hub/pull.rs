//! What is downloaded, and what is not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use soragen::checkpoint::Parts;
use soragen::hub::{Hub, HubName};
use soragen::{Cancel, Error, ModelInfo};
use soragen_tests::fixtures;
use soragen_tests::hub::{self, Asked, COMMIT, Reply, Server};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

fn fixture() -> PathBuf {
    fixtures::path("layouts/wan-2.1")
}

/// A server, and a cache with nothing in it.
struct Stage {
    server: Server,
    folder: tempfile::TempDir,
    hub: Hub,
}

fn stage(spoil: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> Stage {
    serving(&fixture(), spoil)
}

fn serving(model: &Path, spoil: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> Stage {
    let server = Server::start(model, spoil);
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: server.endpoint.clone(),
        cache: folder.path().join("hub"),
        token: Some("secret".into()),
        offline: false,
    };
    Stage { server, folder, hub }
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap().unwrap()
}

fn model() -> HubName {
    name("hf:some/model")
}

impl Stage {
    fn pull(&self) -> soragen::Result<PathBuf> {
        self.hub.pull(&model(), &Cancel::new(), &mut |_| {})
    }

    fn refused(&self) -> String {
        match self.pull() {
            Err(error @ Error::Download { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// What of the weights is here while they are not whole.
    fn part(&self) -> Option<PathBuf> {
        let blobs = self.hub.cache.join("models--some--model/blobs");
        let mut entries = std::fs::read_dir(blobs).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.find(|path| path.extension().is_some_and(|e| e == "incomplete"))
    }

    /// The files beside the cache: there is nothing but it.
    fn assert_nothing_beside_the_cache(&self) {
        let beside: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(beside.iter().all(|name| name == "hub"), "{beside:?}");
    }
}

fn assert_whole(snapshot: &Path) {
    for path in ["model_index.json", "tokenizer/tokenizer.json", "vae/config.json", WEIGHTS] {
        let (made, expected) = (std::fs::read(snapshot.join(path)), std::fs::read(fixture().join(path)));
        assert!(made.unwrap() == expected.unwrap(), "{path}");
    }
}

#[test]
fn a_model_is_laid_out_as_the_python_package_does_it() {
    let stage = stage(|_, _| {});
    let (mut last, mut files) = ((0, 0), Vec::new());
    let snapshot = stage.hub.pull(&model(), &Cancel::new(), &mut |at| {
        assert!(at.received >= last.0 && at.received <= at.total, "{at:?} after {last:?}");
        last = (at.received, at.total);
        files.push(at.file.clone());
    });
    let snapshot = snapshot.unwrap();
    assert!(last.0 == last.1 && last.1 > 1_500_000, "{last:?}");
    assert!(files.iter().any(|file| file == WEIGHTS));
    assert_eq!(snapshot, stage.hub.cache.join("models--some--model/snapshots").join(COMMIT));
    assert_whole(&snapshot);
    let reference = stage.hub.cache.join("models--some--model/refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);
    let link = std::fs::read_link(snapshot.join(WEIGHTS)).unwrap();
    let etag = hub::etag(WEIGHTS, &std::fs::read(fixture().join(WEIGHTS)).unwrap());
    assert_eq!(link, Path::new("../../../blobs").join(etag));
    // What the engine does not read is not downloaded.
    assert!(!snapshot.join("tokenizer/tokenizer_config.json").exists());
    let asked = stage.server.asked();
    let told = |host: &str| {
        asked.iter().filter(|a| a.host.starts_with(host)).map(|a| a.token.as_deref()).collect::<Vec<_>>()
    };
    assert!(told("127.0.0.1").iter().all(|token| *token == Some("secret")));
    assert!(!told("localhost").is_empty() && told("localhost").iter().all(Option::is_none), "{asked:?}");

    // It is there now, for the engine and for a second time.
    assert_eq!(stage.hub.find(&model()).unwrap(), snapshot);
    assert_eq!(stage.hub.list(), [model()]);
    assert_eq!(stage.pull().unwrap(), snapshot);
    assert_eq!(stage.server.asked().len(), 1, "but for what the revision is");
    let info = ModelInfo::read(snapshot.to_str().unwrap(), &Parts::default()).unwrap();
    assert_eq!(info.name, "model");
    stage.assert_nothing_beside_the_cache();
}

#[test]
fn shards_come_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    fixtures::copy(&fixture(), folder.path());
    let path = |name: &str| folder.path().join("transformer").join(name);
    std::fs::rename(folder.path().join(WEIGHTS), path("part-1.safetensors")).unwrap();
    let index = |name: &str| {
        let index = serde_json::json!({ "weight_map": { "w": name } }).to_string();
        std::fs::write(path("diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    };
    index("part-1.safetensors");
    let stage = serving(folder.path(), |_, _| {});
    let snapshot = stage.pull().unwrap();
    assert!(snapshot.join("transformer/part-1.safetensors").is_file());
    for hostile in
        ["../part-1.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "x.sh", "%2e%2e.safetensors"]
    {
        index(hostile);
        let stage = serving(folder.path(), |_, _| {});
        let refused = stage.refused();
        assert!(refused.contains("names no files beside it"), "{hostile}: {refused}");
        stage.assert_nothing_beside_the_cache();
    }
}

#[test]
fn what_is_cut_off_goes_on_where_it_was() {
    // Every connection breaks, and the download goes on by itself.
    let cutting = stage(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            reply.cut = Some(400_000);
        }
    });
    assert_whole(&cutting.pull().unwrap());
    let from: Vec<_> = cutting
        .server
        .asked()
        .into_iter()
        .filter(|a| a.path.starts_with("/large/some/model/transformer"))
        .map(|a| a.from)
        .collect();
    assert_eq!(from, [0, 400_000, 800_000]);

    // It breaks for good, and a later one goes on.
    let mut broken = stage(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            reply.cut = Some(if asked.from == 0 { 300_000 } else { 0 });
        }
    });
    let refused = broken.refused();
    assert!(refused.contains("300000 of 1119520") && refused.contains("goes on from there"), "{refused}");
    assert!(broken.hub.find(&model()).is_err());
    assert_eq!(broken.part().unwrap().metadata().unwrap().len(), 300_000);
    let whole = Server::start(&fixture(), |_, _| {});
    broken.hub.endpoint.clone_from(&whole.endpoint);
    assert_whole(&broken.pull().unwrap());
    let again: Vec<_> =
        whole.asked().into_iter().filter(|a| a.path.starts_with("/large/some/model/transformer")).collect();
    assert_eq!(again.iter().map(|a| a.from).collect::<Vec<_>>(), [300_000]);
    assert_eq!(broken.part(), None);
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_again() {
    let first = AtomicUsize::new(0);
    let stage = stage(move |asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") {
            let body = std::fs::read(fixture().join(WEIGHTS)).unwrap();
            *reply = Reply { status: 200, body, ..Reply::default() };
            reply.cut = (first.fetch_add(1, Ordering::Relaxed) == 0).then_some(400_000);
        }
    });
    assert_whole(&stage.pull().unwrap());
}

#[test]
fn a_cancel_ends_a_download_that_stands_still() {
    // Wherever it stands still: this hangs if it waits for the network.
    for path in ["/api/", "/moved/", "/large/"] {
        let stage = stage(move |asked, reply| {
            if asked.path.starts_with(path) {
                reply.set("content-length", reply.body.len().max(1));
                reply.hang = Some(reply.body.len() / 2);
            }
        });
        let (cancel, hub) = (Cancel::new(), stage.hub.clone());
        let pulling = std::thread::spawn({
            let cancel = cancel.clone();
            move || hub.pull(&model(), &cancel, &mut |_| {})
        });
        while !stage.server.asked().iter().any(|asked| asked.path.starts_with(path)) {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(pulling.join().unwrap(), Err(Error::Cancelled)), "{path}");
    }
}

#[test]
fn what_was_there_at_a_cancel_stays() {
    let stage = stage(|asked, reply| {
        if asked.path.starts_with("/large/some/model/transformer") && asked.from == 0 {
            reply.hang = Some(300_000);
        }
    });
    let cancel = Cancel::new();
    let cancelled = stage.hub.pull(&model(), &cancel, &mut |at| {
        // All that this connection brings.
        if at.file == WEIGHTS && stage.part().is_some_and(|part| part.metadata().unwrap().len() == 300_000) {
            cancel.cancel();
        }
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    stage.server.asked();
    assert_whole(&stage.pull().unwrap());
    assert!(stage.server.asked().iter().any(|asked| asked.from == 300_000));
}

#[test]
fn answers_that_are_no_file_say_what_to_do() {
    for (at, status, words) in [
        ("/api/", 401, ["some/model", "HF_TOKEN"]),
        ("/api/", 403, ["terms", "HF_TOKEN"]),
        ("/api/", 404, ["404", "revision"]),
        ("/api/", 429, ["too often", "later"]),
        ("/api/", 503, ["503", "later"]),
        ("/moved/", 404, ["404", ".json"]),
        ("/large/", 403, ["403", ".safetensors"]),
        ("/large/", 500, ["500", ".safetensors"]),
    ] {
        let stage = stage(move |asked, reply| {
            if asked.path.starts_with(at) {
                *reply = Reply::status(status);
            }
        });
        let refused = stage.refused();
        assert!(words.iter().all(|word| refused.contains(word)), "{at} {status}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
    let mut gone = stage(|_, _| {});
    gone.hub.endpoint = "http://127.0.0.1:1".into();
    assert!(gone.refused().contains("HF_ENDPOINT"));
    let page = stage(|asked, reply| {
        if asked.path.starts_with("/api/") {
            reply.body = b"<html>Log in to this network</html>".to_vec();
        }
    });
    assert!(page.refused().contains("HF_ENDPOINT"));
}

#[test]
fn a_file_of_another_length_is_not_taken() {
    // The hub says one length, the server of large files has another.
    for (size, words) in
        [(1_119_519, "longer"), (1_119_521, "1119520 of 1119521"), (u64::MAX, "of 18446744073709551615")]
    {
        let stage = stage(move |asked, reply| {
            if asked.path.ends_with(WEIGHTS) && reply.status == 302 {
                reply.set("x-linked-size", size);
            }
        });
        let refused = stage.refused();
        assert!(refused.contains(words), "{size}: {refused}");
        assert!(stage.hub.find(&model()).is_err());
    }
}

#[test]
fn a_file_of_another_content_is_not_taken() {
    for (at, path) in
        [("/large/some/model/transformer", WEIGHTS), ("/moved/some/model/vae/config.json", "vae/config.json")]
    {
        let mut stage = stage(move |asked, reply| {
            if asked.path.starts_with(at)
                && let Some(last) = reply.body.last_mut()
            {
                *last ^= 1;
            }
        });
        let refused = stage.refused();
        assert!(refused.contains(path) && refused.contains("digest"), "{refused}");
        assert!(stage.hub.find(&model()).is_err());
        assert_eq!(stage.part(), None, "it is removed");
        let blob = hub::etag(path, &std::fs::read(fixture().join(path)).unwrap());
        assert!(!stage.hub.cache.join("models--some--model/blobs").join(blob).exists());
        // And is downloaded whole from a server that has it.
        let sound = Server::start(&fixture(), |_, _| {});
        stage.hub.endpoint.clone_from(&sound.endpoint);
        assert_whole(&stage.pull().unwrap());
        assert!(sound.asked().iter().all(|asked| asked.from == 0));
    }
}

#[test]
fn no_answer_leads_out_of_the_cache() {
    for etag in
        ["\"../../../../beside\"", "\"/tmp/beside\"", "\"a/b\"", "\"..\"", "\"\"", "\".hidden\"", "\"a b\""]
    {
        let stage = stage(move |asked, reply| {
            if asked.path.ends_with(WEIGHTS) {
                reply.set("x-linked-etag", etag);
            }
        });
        assert!(stage.refused().contains("HF_ENDPOINT"), "{etag}");
        stage.assert_nothing_beside_the_cache();
    }
    for commit in ["../../../beside", "main", "", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let stage = stage(move |asked, reply| {
            if asked.path.starts_with("/api/") {
                reply.body = String::from_utf8(reply.body.clone()).unwrap().replace(COMMIT, commit).into();
            }
        });
        assert!(stage.refused().contains("HF_ENDPOINT"), "{commit}");
        assert!(!stage.hub.cache.exists());
    }
    // Paths that the hub lists are looked for, not followed.
    let listing = stage(|asked, reply| {
        if asked.path.starts_with("/api/") {
            let text = String::from_utf8(reply.body.clone()).unwrap();
            reply.body = text.replace("vae/config.json", "../../vae/config.json").into();
        }
    });
    assert!(listing.refused().contains("there is no vae/config.json"));
    listing.assert_nothing_beside_the_cache();
    // Nor is what is in the cache.
    let here = stage(|_, _| {});
    let refs = here.hub.cache.join("models--some--model/refs");
    std::fs::create_dir_all(&refs).unwrap();
    std::fs::write(refs.join("main"), "../../../beside").unwrap();
    assert!(here.hub.find(&model()).is_err());
}

#[test]
fn a_repository_in_another_layout_is_refused_with_which_to_take() {
    let stage = serving(&fixtures::path("layouts/wan-2.1/transformer"), |_, _| {});
    assert!(stage.refused().contains("-Diffusers"));
}

#[test]
fn offline_takes_what_is_there_and_asks_nobody() {
    let mut stage = stage(|_, _| {});
    stage.hub.offline = true;
    let refused = stage.refused();
    assert!(refused.contains("HF_HUB_OFFLINE"), "{refused}");
    stage.hub.offline = false;
    let snapshot = stage.pull().unwrap();
    stage.hub.offline = true;
    stage.server.asked();
    assert_eq!(stage.pull().unwrap(), snapshot);
    // A commit has no name beside its own.
    assert_eq!(stage.hub.find(&name(&format!("hf:some/model@{COMMIT}"))).unwrap(), snapshot);
    std::fs::remove_file(snapshot.join("vae/config.json")).unwrap();
    assert!(stage.refused().contains("not all of it"));
    assert!(stage.server.asked().is_empty());
}

#[test]
fn revisions_are_asked_for_and_kept_apart() {
    let stage = stage(|_, _| {});
    let branch = name("hf:some/model@refs/pr/3");
    stage.hub.pull(&branch, &Cancel::new(), &mut |_| {}).unwrap();
    assert_eq!(stage.server.asked()[0].path, "/api/models/some/model/revision/refs%2Fpr%2F3");
    assert!(stage.hub.find(&branch).is_ok());
    assert!(stage.hub.find(&model()).is_err());
}
