//! The kernels for a CPU stand beside candle's own operations, which compute everywhere else.

use std::process::Command;

/// Set to `plain`, it has these used on a CPU too.
const VARIABLE: &str = "SORAGEN_KERNELS";

#[test]
fn without_kernels_everything_equals_the_reference_too() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    let run = Command::new(tests).env(VARIABLE, "plain").output().unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && told.contains("test result: ok"), "{told}");
}
