//! `soragen policy`.

use std::path::Path;
use std::process::ExitCode;

use soragen::policy::{self, Policy, Verdict};

use crate::error::{Error, Result};

/// Prints the verdict on each line of stdin, without the line.
pub fn check(file: Option<&Path>) -> Result<ExitCode> {
    let policy = Policy::open(file, None)?;
    let mut blocked = false;
    for (number, line) in std::io::stdin().lines().enumerate() {
        let line = line.map_err(|e| Error::file("stdin", e))?;
        let verdict = match policy.check(&line) {
            Verdict::Pass => "pass".into(),
            Verdict::Warn(category) => format!("warn   {category}"),
            Verdict::Block(category) => {
                blocked = true;
                format!("block  {category}")
            }
        };
        print_line!("{:5}  {verdict}", number + 1)?;
    }
    Ok(if blocked { ExitCode::from(crate::NEGATIVE) } else { ExitCode::SUCCESS })
}

pub fn verify(log: &Path) -> Result<()> {
    print_line!("{}: {} decisions, not modified", log.display(), policy::verify(log)?)?;
    Ok(())
}
