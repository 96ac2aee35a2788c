//! An external moderation program.

use std::time::Duration;

use serde::Deserialize;

use super::Verdict;
use crate::program;

/// Exit status of a refusal, as of the `soragen` command.
const REFUSED: i32 = 3;
/// Bytes of the output that are read.
const MAX_OUTPUT: u64 = 200;

/// A program that reads a prompt on stdin. Exit status 0 lets it pass; 3 refuses it, and the first line of stdout is
/// the category. Any other status or a timeout refuses it too.
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
    /// # Errors
    /// A message for the user about an invalid setting.
    pub fn check(&self) -> Result<(), String> {
        if self.command.is_empty() {
            return Err("`hook.command` is empty; set it to a program and its arguments".into());
        }
        if !(self.timeout > 0.0 && self.timeout <= 3600.0) {
            return Err("`hook.timeout` must be above 0 and at most 3600 seconds".into());
        }
        Ok(())
    }

    /// Runs the program for `prompt`.
    pub fn ask(&self, prompt: &str) -> Verdict {
        let limit = Duration::from_secs_f32(self.timeout);
        match program::run(&self.command, prompt.as_bytes(), limit, MAX_OUTPUT) {
            Ok(output) if output.status.success() => Verdict::Pass,
            Ok(output) if output.status.code() == Some(REFUSED) => {
                let answer = output.stdout().unwrap_or_default();
                let answer = String::from_utf8_lossy(&answer);
                let line = answer.lines().next().unwrap_or_default().trim();
                Verdict::Block(if line.is_empty() { "refused by the hook" } else { line }.into())
            }
            // Every failure refuses the prompt.
            _ => Verdict::Block("the hook gives no answer".into()),
        }
    }
}
