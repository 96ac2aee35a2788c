//! Another program, that is given something to read and may take only so long.

use std::io::{self, Error, ErrorKind, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of a program.
#[derive(Debug)]
pub struct Output {
    /// With which it ended.
    pub status: ExitStatus,
    written: mpsc::Receiver<Vec<u8>>,
    deadline: Instant,
}

impl Output {
    /// What it wrote; none where something that it has started holds on to it until the time is over.
    pub fn stdout(self) -> Option<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.written.recv_timeout(left).ok()
    }
}

/// Runs `command`, a program and its arguments, with `input` on its stdin, and reads the first `most` bytes that it writes.
///
/// # Errors
///
/// [`ErrorKind::TimedOut`] if it has not ended after `limit`; it is killed then. Others if it could not be run.
pub fn run(command: &[String], input: &[u8], limit: Duration, most: u64) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no program is named"))?;
    // A file rather than a pipe: where the program does not read it all, a pipe's writer gets a signal that ends processes.
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input)?;
    stdin.rewind()?;
    let mut child = Command::new(program).args(arguments).stdin(stdin).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take();
    let (sender, written) = mpsc::channel();
    // It may be blocked for as long as the program does not write, and ends with it.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.map(|stdout| stdout.take(most).read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    let Some(status) = wait(&mut child, deadline)? else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::new(ErrorKind::TimedOut, "it has not ended in time"));
    };
    Ok(Output { status, written, deadline })
}

/// Its status, once it has ended, if it has by then.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(PAUSE);
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
    fn what_does_not_end_is_ended() {
        let begun = Instant::now();
        for script in ["exec sleep 600", "cat; exec sleep 600"] {
            assert_eq!(sh(script, 500).unwrap_err().kind(), ErrorKind::TimedOut, "{script}");
        }
        // What is left behind holds on to whatever this test writes to: not for long.
        let left_behind = sh("sleep 5 & exit 4", 500).unwrap();
        assert_eq!((left_behind.status.code(), left_behind.stdout()), (Some(4), None));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_ends_is_heard() {
        assert_eq!(sh("cat >/dev/null; echo yes", 60_000).unwrap().stdout().unwrap(), b"yes\n");
        assert_eq!(sh("echo it reads nothing", 60_000).unwrap().stdout().unwrap(), b"it reads nothing\n");
        assert_eq!(sh("exit 5", 60_000).unwrap().status.code(), Some(5));
        let nobody = run(&[], &[], Duration::from_secs(60), 1).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::InvalidInput);
    }
}
