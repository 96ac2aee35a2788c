//! A program that is asked about every prompt.

use std::io::{Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Verdict;

/// Its exit status where it refuses; the command's own where the answer is no.
const NO: i32 = 3;
/// What is read of its answer.
const MAX_ANSWER: u64 = 200;
/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// A program that is given a prompt on stdin: exit status 0 lets it pass, 3 refuses it, and its first line on stdout is
/// the category then. What does neither in time refuses too.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    command: Vec<String>,
    /// Seconds.
    #[serde(default = "default_timeout")]
    timeout: f32,
}

fn default_timeout() -> f32 {
    10.0
}

impl Hook {
    /// What is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), String> {
        if self.command.is_empty() {
            return Err("`hook.command` is empty; it is a program and its arguments".into());
        }
        if !(self.timeout > 0.0 && self.timeout <= 3600.0) {
            return Err("`hook.timeout` is a number of seconds, up to 3600".into());
        }
        Ok(())
    }

    /// What it says to `prompt`.
    pub fn ask(&self, prompt: &str) -> Verdict {
        // Whatever goes wrong refuses.
        match self.run(prompt) {
            Some((status, _)) if status.success() => Verdict::Pass,
            Some((status, answer)) if status.code() == Some(NO) => {
                let line = answer.lines().next().unwrap_or_default().trim();
                Verdict::Block(if line.is_empty() { "refused by the hook" } else { line }.into())
            }
            _ => Verdict::Block("the hook gives no answer".into()),
        }
    }

    /// Its exit status and what it wrote; `None` if it did not run, or not to its end in time.
    fn run(&self, prompt: &str) -> Option<(ExitStatus, String)> {
        let deadline = Instant::now() + Duration::from_secs_f32(self.timeout);
        let (program, arguments) = self.command.split_first()?;
        // A file rather than a pipe: where the program does not read it all, a pipe's writer gets a signal that ends processes.
        let mut stdin = tempfile::tempfile().ok()?;
        stdin.write_all(prompt.as_bytes()).and_then(|()| stdin.rewind()).ok()?;
        let mut child =
            Command::new(program).args(arguments).stdin(stdin).stdout(Stdio::piped()).spawn().ok()?;
        let stdout = child.stdout.take();
        let (sender, answer) = mpsc::channel();
        // It may be blocked for as long as the program does not write, and ends with it.
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.map(|stdout| stdout.take(MAX_ANSWER).read_to_end(&mut bytes));
            let _ = sender.send(bytes);
        });
        let status = wait(&mut child, deadline);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let bytes = answer.recv_timeout(left).unwrap_or_default();
        Some((status?, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().ok()? {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
