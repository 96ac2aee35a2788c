//! What an interrupt does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use soragen::Cancel;

use crate::error::Result;
use crate::output;

/// A flag that is raised by the first interrupt; the second ends the command. To be called once.
pub fn cancel() -> Result<Cancel> {
    let cancel = Cancel::new();
    let interrupted = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let cancel = cancel.clone();
        move || {
            // The second time it is meant: do not wait for the file to be finished.
            if interrupted.swap(true, Ordering::Relaxed) {
                output::abandon();
                std::process::exit(crate::INTERRUPTED.into());
            }
            cancel.cancel();
        }
    })?;
    Ok(cancel)
}
