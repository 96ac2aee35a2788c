//! The kernels for a CPU stand beside candle's own operations, which compute everywhere else, and are there for every width
//! of vectors.

use std::process::Command;

/// Which of them are used.
const VARIABLE: &str = "SORAGEN_KERNELS";

#[test]
fn without_kernels_and_with_others_everything_equals_the_reference_too() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    for kernels in ["plain", "avx2", "scalar"] {
        let run = Command::new(&tests).env(VARIABLE, kernels).output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        let said = String::from_utf8_lossy(&run.stderr);
        // What went wrong is at the end.
        let whole = run.status.success() && told.contains("test result: ok");
        assert!(whole, "{kernels}: {}\n{told}\n{said}\n{kernels}: {}", run.status, run.status);
    }
}
