//! Interrupt (Ctrl-C) handling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use soragen::Cancel;

use crate::error::Result;
use crate::output;

/// Installs the handler: the first interrupt cancels, the second exits at once. Call it only once.
pub fn cancel() -> Result<Cancel> {
    let cancel = Cancel::new();
    let interrupted = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let cancel = cancel.clone();
        move || {
            if interrupted.swap(true, Ordering::Relaxed) {
                output::remove_partial_files();
                std::process::exit(crate::INTERRUPTED.into());
            }
            cancel.cancel();
        }
    })?;
    Ok(cancel)
}
