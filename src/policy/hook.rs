//! A program that is asked about every prompt.

use std::time::Duration;

use serde::Deserialize;

use super::Verdict;
use crate::program;

/// Its exit status where it refuses; the command's own where the answer is no.
const NO: i32 = 3;
/// What is read of its answer.
const MAX_ANSWER: u64 = 200;

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
        let limit = Duration::from_secs_f32(self.timeout);
        match program::run(&self.command, prompt.as_bytes(), limit, MAX_ANSWER) {
            Ok(output) if output.status.success() => Verdict::Pass,
            Ok(output) if output.status.code() == Some(NO) => {
                let answer = output.stdout().unwrap_or_default();
                let answer = String::from_utf8_lossy(&answer);
                let line = answer.lines().next().unwrap_or_default().trim();
                Verdict::Block(if line.is_empty() { "refused by the hook" } else { line }.into())
            }
            // Whatever goes wrong refuses.
            _ => Verdict::Block("the hook gives no answer".into()),
        }
    }
}
