#![no_main]
//! The shard index of a folder and of a hub model.

use libfuzzer_sys::fuzz_target;
use soragen::checkpoint::Source;
use soragen::hub::{Hub, HubName};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fuzz_target!(|data: &[u8]| {
    let cache = soragen_fuzz::folder();
    let repository = cache.join("models--some--model");
    let snapshot = repository.join("snapshots").join(COMMIT);
    if !repository.exists() {
        std::fs::create_dir_all(repository.join("refs")).expect("a folder");
        std::fs::write(repository.join("refs/main"), COMMIT).expect("a file");
        std::fs::create_dir_all(repository.join("snapshots")).expect("a folder");
        std::fs::rename(soragen_fuzz::copied("layouts/wan-2.1"), &snapshot).expect("a new name");
    }
    let stem = "diffusion_pytorch_model";
    std::fs::write(snapshot.join(format!("transformer/{stem}.safetensors.index.json")), data).expect("a file");
    let hub = Hub { endpoint: String::new(), cache: cache.into(), token: None, offline: true };
    let name = HubName::parse("hf:some/model").ok().flatten().expect("a name");
    soragen_fuzz::value_or_message(hub.find(&name));

    // Without the single file, which has priority over the index.
    let single = snapshot.join(format!("transformer/{stem}.safetensors"));
    let shard = snapshot.join("transformer/a.safetensors");
    if single.exists() {
        std::fs::rename(single, shard).expect("a new name");
    }
    soragen_fuzz::value_or_message(Source::Folder(snapshot).shapes("transformer", stem));
});
