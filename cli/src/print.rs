//! Lines on standard output.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

use crate::error::{Error, Result};

/// Prints a line, like `println!`. A closed pipe (`| head`) is not an error: the exit status is still needed.
macro_rules! print_line {
    ($($line:tt)*) => { crate::print::line(format_args!($($line)*)) };
}

pub(crate) fn line(line: Arguments<'_>) -> Result<()> {
    match writeln!(stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::file("stdout", error)),
        _ => Ok(()),
    }
}
