//! Runs external programs with input and a time limit.

use std::io::{self, Error, ErrorKind, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Interval between two checks whether the program has ended.
const POLL: Duration = Duration::from_millis(5);

/// The result of a program.
#[derive(Debug)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    stdout: mpsc::Receiver<Vec<u8>>,
    deadline: Instant,
}

impl Output {
    /// Its output. `None` if a process that it started keeps stdout open until the deadline.
    pub fn stdout(self) -> Option<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.stdout.recv_timeout(left).ok()
    }
}

/// Runs `command`, a program and its arguments, with `input` on stdin, and reads the first `max_bytes` bytes of stdout.
///
/// # Errors
///
/// [`ErrorKind::TimedOut`] if the program does not end within `limit`; it is killed. Other errors if it cannot be run.
pub fn run(command: &[String], input: &[u8], limit: Duration, max_bytes: u64) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the command is empty"))?;
    // A file, not a pipe: a program that does not read all input would send SIGPIPE to this process.
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input)?;
    stdin.rewind()?;
    let mut child = Command::new(program).args(arguments).stdin(stdin).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take();
    let (sender, output) = mpsc::channel();
    // This thread blocks until the program writes or ends.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.map(|stdout| stdout.take(max_bytes).read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    let Some(status) = wait(&mut child, deadline)? else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::new(ErrorKind::TimedOut, "the program did not end in time"));
    };
    Ok(Output { status, stdout: output, deadline })
}

/// Waits for the exit status; `None` at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str, limit: u64) -> io::Result<Output> {
        let command = ["sh", "-c", script].map(String::from);
        run(&command, &[7; 300_000], Duration::from_millis(limit), 1 << 16)
    }

    #[test]
    fn a_program_is_killed_after_the_time_limit() {
        let start = Instant::now();
        for script in ["exec sleep 600", "cat; exec sleep 600"] {
            assert_eq!(sh(script, 500).unwrap_err().kind(), ErrorKind::TimedOut, "{script}");
        }
        // A background process keeps stdout open.
        let background = sh("sleep 5 & exit 4", 500).unwrap();
        assert_eq!((background.status.code(), background.stdout()), (Some(4), None));
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_output_of_a_program_is_returned() {
        assert_eq!(sh("cat >/dev/null; echo yes", 60_000).unwrap().stdout().unwrap(), b"yes\n");
        assert_eq!(sh("echo it reads nothing", 60_000).unwrap().stdout().unwrap(), b"it reads nothing\n");
        assert_eq!(sh("exit 5", 60_000).unwrap().status.code(), Some(5));
        let empty = run(&[], &[], Duration::from_secs(60), 1).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::InvalidInput);
    }
}
