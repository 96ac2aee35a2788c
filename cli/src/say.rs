//! Lines for whoever reads standard output, and may stop reading.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::process::exit;

/// As `println!`, which panics where nobody reads any further, as behind `| head`: here that ends the command.
macro_rules! say {
    ($($line:tt)*) => { crate::say::line(format_args!($($line)*)) };
}

pub(crate) fn line(line: Arguments<'_>) {
    match writeln!(stdout(), "{line}") {
        Ok(()) => (),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("soragen: standard output: {error}");
            exit(1);
        }
    }
}
