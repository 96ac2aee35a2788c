// SPDX-License-Identifier: MPL-2.0

//! A program that signs.

use std::io::{Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No signature is longer.
const MAX_SIGNATURE: u64 = 1 << 16;
/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What `command` makes of `data`. One that has not ended after `limit` is ended.
pub fn run(command: &[String], data: &[u8], limit: Duration) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + limit;
    let (program, arguments) = command.split_first().ok_or("the signing command is empty")?;
    let failed = |reason: &dyn std::fmt::Display| format!("the signing command {program} failed: {reason}");
    let late = || {
        failed(&format_args!(
            "it has not ended after {} s; is it waiting for a person, or is sign-timeout too short?",
            limit.as_secs()
        ))
    };
    // A file rather than a pipe: where the program does not read it all, a pipe's writer gets a signal that ends processes.
    let mut stdin = tempfile::tempfile().map_err(|e| failed(&e))?;
    stdin.write_all(data).and_then(|()| stdin.rewind()).map_err(|e| failed(&e))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let stdout = child.stdout.take();
    let (sender, answer) = mpsc::channel();
    // It may be blocked for as long as the program does not write, and ends with it.
    std::thread::spawn(move || {
        let mut signature = Vec::new();
        let _ = stdout.map(|stdout| stdout.take(MAX_SIGNATURE).read_to_end(&mut signature));
        let _ = sender.send(signature);
    });
    let Some(status) = wait(&mut child, deadline).map_err(|e| failed(&e))? else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(late());
    };
    if !status.success() {
        return Err(failed(&status));
    }
    // Something that it has started may still hold its output open.
    let left = deadline.saturating_duration_since(Instant::now());
    let signature = answer.recv_timeout(left).map_err(|_| late())?;
    if signature.is_empty() {
        return Err(failed(&"it wrote no signature to stdout"));
    }
    Ok(signature)
}

/// Its status, once it has ended, if it has by then.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
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

    fn sh(script: &str) -> Result<Vec<u8>, String> {
        run(&["sh".into(), "-c".into(), script.into()], &[7; 300_000], Duration::from_millis(500))
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let begun = Instant::now();
        // What is left behind holds on to whatever this test writes to: not for long.
        for script in ["exec sleep 600", "sleep 5 & exit 0", "cat; exec sleep 600"] {
            let error = sh(script).unwrap_err();
            assert!(error.contains("sign-timeout"), "{script}: {error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_ends_is_heard() {
        assert_eq!(sh("cat >/dev/null; echo signature").unwrap(), b"signature\n");
        assert_eq!(sh("echo it reads nothing").unwrap(), b"it reads nothing\n");
        assert!(sh("exit 5").unwrap_err().contains('5'));
        assert!(sh("exit 0").unwrap_err().contains("no signature"));
    }
}
