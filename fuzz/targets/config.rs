#![no_main]
//! One of the configuration files of a model. The first byte selects the file.

use libfuzzer_sys::fuzz_target;
use soragen::checkpoint::Parts;
use soragen::{Cancel, Length, Model, ModelInfo, OpenOptions, Request, Session};

const FILES: [(&str, &str); 8] = [
    ("layouts/wan-2.1", "model_index.json"),
    ("layouts/wan-2.1", "scheduler/scheduler_config.json"),
    ("layouts/wan-2.1", "transformer/config.json"),
    ("layouts/wan-2.1", "vae/config.json"),
    ("layouts/wan-2.1", "text_encoder/config.json"),
    ("miniature", "soragen.json"),
    ("miniature", "transformer/config.json"),
    ("miniature", "vae/config.json"),
];

fuzz_target!(|data: &[u8]| {
    let Some((&which, text)) = data.split_first() else { return };
    let (model, file) = FILES[usize::from(which) % FILES.len()];
    let folder = soragen_fuzz::copied(model);
    std::fs::write(folder.join(file), text).expect("a file");
    run(&folder.to_string_lossy());
    std::fs::copy(soragen_fuzz::fixture(model).join(file), folder.join(file)).expect("a copy");
});

fn run(model: &str) {
    if soragen_fuzz::value_or_message(ModelInfo::read(model, &Parts::default())).is_none() {
        return;
    }
    soragen_fuzz::value_or_message(soragen::part_sizes(model, &Parts::default()));
    let mut options = OpenOptions::default();
    options.device = "cpu".into();
    let opened = Model::open(model, &options, &Cancel::new());
    let Some(model) = soragen_fuzz::value_or_message(opened) else { return };
    let mut request = Request::new("a cat");
    request.length = Length::Frames(9);
    soragen_fuzz::value_or_message(Session::new(model, request));
}
