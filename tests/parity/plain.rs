//! The parity tests again with candle's plain operations, which other devices use, and with narrower vector instructions.

use std::process::Command;

/// Tests of files, caches and cancels, which do not depend on the kernels.
const INDEPENDENT: &[&str] =
    &["builtin::", "cache::", "cancel::", "damaged::", "layouts::", "lora::", "shapes::"];

/// Selects the kernels.
const VARIABLE: &str = "SORAGEN_KERNELS";

#[test]
fn all_parity_tests_pass_without_kernels_and_with_narrower_vectors() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    for kernels in ["plain", "avx2", "scalar"] {
        let mut run = Command::new(&tests);
        run.env(VARIABLE, kernels).args(INDEPENDENT.iter().flat_map(|tests| ["--skip", tests]));
        let run = run.output().unwrap();
        let stdout = String::from_utf8_lossy(&run.stdout);
        let stderr = String::from_utf8_lossy(&run.stderr);
        let passed = run.status.success() && stdout.contains("test result: ok");
        // The status is repeated at the end, where it is visible after a long output.
        assert!(passed, "{kernels}: {}\n{stdout}\n{stderr}\n{kernels}: {}", run.status, run.status);
    }
}
