// SPDX-License-Identifier: MPL-2.0

//! External signing commands.

use std::io::ErrorKind;
use std::time::Duration;

use soragen::program;

/// Maximum length of a signature in bytes.
const MAX_SIGNATURE: u64 = 1 << 16;

/// Runs `command` with `data` on stdin and returns its stdout. The command is killed after `timeout`.
pub fn run(command: &[String], data: &[u8], timeout: Duration) -> Result<Vec<u8>, String> {
    let program = command.first().ok_or("the signing command is empty")?;
    let failed = |reason: &dyn std::fmt::Display| format!("the signing command {program} failed: {reason}");
    let timed_out = || {
        failed(&format_args!(
            "it did not exit within {} s; does it wait for input, or is sign-timeout too short?",
            timeout.as_secs()
        ))
    };
    let output = program::run(command, data, timeout, MAX_SIGNATURE).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => timed_out(),
        _ => failed(&error),
    })?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let signature = output.stdout().ok_or_else(timed_out)?;
    if signature.is_empty() {
        return Err(failed(&"it wrote no signature to stdout"));
    }
    Ok(signature)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: u64) -> Result<Vec<u8>, String> {
        run(&["sh".into(), "-c".into(), script.into()], b"data", Duration::from_millis(timeout))
    }

    #[test]
    fn stdout_is_the_signature() {
        assert_eq!(sh("cat", 60_000).unwrap(), b"data");
    }

    #[test]
    fn errors_name_their_cause() {
        // A short sleep: the background process keeps the stdout of this test open.
        for script in ["exec sleep 600", "sleep 5 & exit 0"] {
            let error = sh(script, 500).unwrap_err();
            assert!(error.contains("sign-timeout"), "{script}: {error}");
        }
        for (script, message) in [("exit 5", "5"), ("exit 0", "no signature")] {
            let error = sh(script, 60_000).unwrap_err();
            assert!(error.contains(message), "{script}: {error}");
        }
        let none = run(&["/no/such/program".into()], b"", Duration::from_secs(60)).unwrap_err();
        assert!(none.contains("/no/such/program"), "{none}");
    }
}
