//! Lines for whoever reads standard output, and may stop reading.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

use crate::error::{Error, Result};

/// As `println!`, which panics where nobody reads any further, as behind `| head`: here the command goes on, for its status is
/// still an answer.
macro_rules! say {
    ($($line:tt)*) => { crate::say::line(format_args!($($line)*)) };
}

pub(crate) fn line(line: Arguments<'_>) -> Result<()> {
    match writeln!(stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::file("stdout", error)),
        _ => Ok(()),
    }
}
