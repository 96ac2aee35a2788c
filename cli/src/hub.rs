//! Models of the hub.

use indicatif::{ProgressBar, ProgressStyle};
use soragen::Cancel;
use soragen::hub::{Hub, HubName};

use crate::error::{Error, Result};

/// `soragen models pull`.
pub fn pull(source: &str) -> Result<()> {
    let Some(name) = HubName::parse(source)? else {
        return Err(Error::Usage(format!("{source} is not a model of the hub; hf:owner/name is one")));
    };
    let folder = download(&Hub::from_env(), &name, &crate::interrupt::cancel()?)?;
    say!("{}", folder.display())?;
    Ok(())
}

/// Downloads the model that `source` names, if it is one of the hub that is not on this machine.
pub fn bring(source: &str, cancel: &Cancel) -> Result<()> {
    let hub = Hub::from_env();
    match hub.missing_model(source)? {
        Some(name) => download(&hub, &name, cancel).map(drop),
        None => Ok(()),
    }
}

fn download(hub: &Hub, name: &HubName, cancel: &Cancel) -> Result<std::path::PathBuf> {
    // Draws on stderr, and only where that is a terminal.
    let bar = ProgressBar::new(0);
    let template = "{bar:30} {bytes}/{total_bytes}  {msg}  {binary_bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut file = String::new();
    let folder = hub.pull(name, cancel, &mut |at| {
        if at.file != file {
            file.clone_from(&at.file);
            bar.set_message(file.clone());
        }
        bar.set_length(at.total);
        bar.set_position(at.received);
    });
    bar.finish_and_clear();
    folder.map_err(|error| match error {
        soragen::Error::Cancelled => Error::Interrupted,
        other => other.into(),
    })
}
