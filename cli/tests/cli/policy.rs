//! Content policies in `soragen render` and `soragen policy`.

use std::io::Write;
use std::process::Stdio;

use super::{files, soragen, stderr};

const POLICY: &str = "name = \"test\"\n[[category]]\nname = \"stones\"\naction = \"block\"\nphrases = [\"quartz\"]\n\
                      [[category]]\nname = \"metals\"\naction = \"warn\"\nphrases = [\"copper\"]";

#[test]
fn a_blocked_prompt_writes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    let mut command = soragen(["render", "a quartz mountain", "-o"]);
    command.arg(path("out.y4m")).arg("--policy").arg(path("policy.toml"));
    let output = command.arg("--audit-log").arg(path("log")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stones") && !stderr(&output).contains("quartz"), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["log", "log.head", "policy.toml"]);

    let verify = || soragen(["policy", "verify"]).arg(path("log")).output().unwrap();
    assert_eq!(verify().status.code(), Some(0), "{}", stderr(&verify()));
    std::fs::write(path("log"), "").unwrap();
    assert_eq!(verify().status.code(), Some(1), "an empty log fails verification");
}

#[test]
fn the_negative_prompt_is_not_blocked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    let mut command = soragen(["render", "snow", "--duration", "0.5", "--negative", "quartz", "-o"]);
    let model = soragen_tests::fixtures::path("miniature");
    let output = command
        .arg(path("out.y4m"))
        .arg("--model")
        .arg(model)
        .arg("--policy")
        .arg(path("policy.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn policy_check_prints_a_verdict_per_line() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, POLICY).unwrap();
    let mut command = soragen(["policy", "check", "--policy"]);
    let mut child = command.arg(policy).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"snow\nqu4rtz\na copper kettle\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["    1  pass", "    2  block  stones", "    3  warn   metals"]
    );
}

#[test]
fn a_blocked_shot_writes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    let board = "0:00 snow | 0:01 (cut) a quartz mountain | 0:02";
    let mut command = soragen(["render", "--storyboard", board, "-o"]);
    let output = command.arg(path("out.y4m")).arg("--policy").arg(path("policy.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stones") && !stderr(&output).contains("quartz"), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["policy.toml"]);
}

#[test]
fn policy_check_exits_with_status_3_even_if_stdout_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("policy.toml"), POLICY).unwrap();
    std::fs::write(path("prompts"), "a fox\na quartz mountain\n").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = soragen(["policy", "check", "--policy"]);
    command.arg(path("policy.toml")).stdin(std::fs::File::open(path("prompts")).unwrap()).stdout(writer);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}
