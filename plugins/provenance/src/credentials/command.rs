// SPDX-License-Identifier: MPL-2.0

//! A program that signs.

use std::io::ErrorKind;
use std::time::Duration;

use soragen::program;

/// No signature is longer.
const MAX_SIGNATURE: u64 = 1 << 16;

/// What `command` makes of `data`. One that has not ended after `limit` is ended.
pub fn run(command: &[String], data: &[u8], limit: Duration) -> Result<Vec<u8>, String> {
    let program = command.first().ok_or("the signing command is empty")?;
    let failed = |reason: &dyn std::fmt::Display| format!("the signing command {program} failed: {reason}");
    let late = || {
        failed(&format_args!(
            "it has not ended after {} s; is it waiting for a person, or is sign-timeout too short?",
            limit.as_secs()
        ))
    };
    let output = program::run(command, data, limit, MAX_SIGNATURE).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => late(),
        _ => failed(&error),
    })?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let signature = output.stdout().ok_or_else(late)?;
    if signature.is_empty() {
        return Err(failed(&"it wrote no signature to stdout"));
    }
    Ok(signature)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str, limit: u64) -> Result<Vec<u8>, String> {
        run(&["sh".into(), "-c".into(), script.into()], b"data", Duration::from_millis(limit))
    }

    #[test]
    fn what_it_writes_is_the_signature() {
        assert_eq!(sh("cat", 60_000).unwrap(), b"data");
    }

    #[test]
    fn what_went_wrong_is_said() {
        // What is left behind holds on to whatever this test writes to: not for long.
        for script in ["exec sleep 600", "sleep 5 & exit 0"] {
            let error = sh(script, 500).unwrap_err();
            assert!(error.contains("sign-timeout"), "{script}: {error}");
        }
        for (script, said) in [("exit 5", "5"), ("exit 0", "no signature")] {
            let error = sh(script, 60_000).unwrap_err();
            assert!(error.contains(said), "{script}: {error}");
        }
        let none = run(&["/no/such/program".into()], b"", Duration::from_secs(60)).unwrap_err();
        assert!(none.contains("/no/such/program"), "{none}");
    }
}
