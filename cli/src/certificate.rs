//! `soragen certificate`.

use std::fs::OpenOptions;
use std::io::Write;

use crate::args::CertificateArgs;
use crate::error::{Error, Result};

/// Writes a test certificate chain, and prints a pipeline that uses it.
pub fn run(args: &CertificateArgs) -> Result<()> {
    let chain = gstsoraprovenance::credentials::test_chain(&args.organization)?;
    let files = [
        ("certificate.pem", &chain.certificate, 0o644),
        ("private-key.pem", &chain.private_key, 0o600),
        ("authority.pem", &chain.authority, 0o644),
    ];
    let path = |name: &str| args.folder.join(name);
    if let Some((name, ..)) = files.iter().find(|(name, ..)| path(name).exists()) {
        return Err(Error::file(path(name), "the file exists and is not overwritten; choose another folder"));
    }
    std::fs::create_dir_all(&args.folder).map_err(|e| Error::file(&args.folder, e))?;
    for (name, text, mode) in files {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        let written = options.open(path(name)).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|e| Error::file(path(name), e))?;
    }
    print_line!(
        "... ! mp4mux ! c2pasink location=out.mp4 certificate={} private-key={}",
        path("certificate.pem").display(),
        path("private-key.pem").display()
    )?;
    Ok(())
}
