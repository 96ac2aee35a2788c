//! `soragen policy`.

use std::path::Path;
use std::process::ExitCode;

use soragen::policy::{self, Policy, Verdict};

use crate::error::{Error, Result};

/// Says of each line of stdin whether it would pass. The lines are not repeated.
pub fn check(file: Option<&Path>) -> Result<ExitCode> {
    let policy = Policy::open(file, None)?;
    let mut refused = false;
    for (number, line) in std::io::stdin().lines().enumerate() {
        let line = line.map_err(|e| Error::file("stdin", e))?;
        let said = match policy.check(&line) {
            Verdict::Pass => "pass".into(),
            Verdict::Warn(category) => format!("warn   {category}"),
            Verdict::Block(category) => {
                refused = true;
                format!("block  {category}")
            }
        };
        say!("{:5}  {said}", number + 1)?;
    }
    Ok(if refused { ExitCode::from(crate::NO) } else { ExitCode::SUCCESS })
}

pub fn verify(log: &Path) -> Result<()> {
    say!("{}: {} decisions, all as they were written", log.display(), policy::verify(log)?)?;
    Ok(())
}
