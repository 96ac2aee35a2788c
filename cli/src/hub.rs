//! Downloads from the Hugging Face Hub.

use indicatif::{ProgressBar, ProgressStyle};
use soragen::Cancel;
use soragen::hub::{Hub, HubName};

use crate::error::{Error, Result};

/// `soragen models pull`.
pub fn pull(source: &str) -> Result<()> {
    let Some(name) = HubName::parse(source)? else {
        return Err(Error::Usage(format!("{source} is not a Hugging Face Hub model; use hf:owner/name")));
    };
    let folder = download(&Hub::from_env(), &name, &crate::interrupt::cancel()?)?;
    print_line!("{}", folder.display())?;
    Ok(())
}

/// Downloads the model `source` if it is a Hub model that is not in the local cache.
pub fn pull_if_missing(source: &str, cancel: &Cancel) -> Result<()> {
    let hub = Hub::from_env();
    match hub.missing_model(source)? {
        Some(name) => download(&hub, &name, cancel).map(drop),
        None => Ok(()),
    }
}

fn download(hub: &Hub, name: &HubName, cancel: &Cancel) -> Result<std::path::PathBuf> {
    // Drawn on stderr, and only on a terminal.
    let bar = ProgressBar::new(0);
    let template = "{bar:30} {bytes}/{total_bytes}  {msg}  {binary_bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut file = String::new();
    let folder = hub.pull(name, cancel, &mut |download| {
        if download.file != file {
            file.clone_from(&download.file);
            bar.set_message(file.clone());
        }
        bar.set_length(download.total);
        bar.set_position(download.received);
    });
    bar.finish_and_clear();
    folder.map_err(|error| match error {
        soragen::Error::Cancelled => Error::Interrupted,
        other => other.into(),
    })
}
