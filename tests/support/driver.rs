//! Drivers in C that stand for that of a GPU.

use std::path::Path;
use std::process::Command;

/// Compiles `source`, a path in the folder of the tests, to the shared library `library`. Headers are searched in the library's folder.
pub fn compile(source: &str, library: &Path) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-w", "-I"])
        .arg(library.parent().expect("a file in a folder"))
        .arg("-o")
        .arg(library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}; scripts/setup.sh installs a C compiler"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
