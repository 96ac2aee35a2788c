//! What passes and what does not.

use super::*;

/// A policy with made-up things to refuse.
const QUARTZ: &str = r#"
name = "test"
[[category]]
name = "lamps"
action = "allow"
phrases = ["quartz lamp"]
[[category]]
name = "stones"
action = "block"
phrases = ["quartz", "blue granite", "marbl*", "石英"]
[[category.together]]
within = 5
words = [["red", "crimson"], ["sand*", "gravel"]]
[[category]]
name = "metals"
action = "warn"
phrases = ["copper"]
"#;

fn policy() -> Policy {
    Policy::parse(QUARTZ).unwrap()
}

fn blocked(prompt: &str) -> bool {
    matches!(policy().check(prompt), Verdict::Block(category) if category == "stones")
}

#[test]
fn words_phrases_endings_and_pairs_are_found() {
    for prompt in [
        "a quartz mountain",
        "Quartz!",
        "a blue, granite-like wall of blue granite",
        "marbles roll",
        "marble",
        "the sandstone is red",
        "crimson dunes of sand",
        "一块石英在桌上",
        "a copper kettle full of quartz",
    ] {
        assert!(blocked(prompt), "{prompt}");
    }
    for prompt in
        ["a quartzite mountain", "blue sky over granite", "a red fox runs over the snow and the sand", ""]
    {
        assert_eq!(policy().check(prompt), Verdict::Pass, "{prompt}");
    }
    assert_eq!(policy().check("a copper kettle"), Verdict::Warn("metals".into()));
}

#[test]
fn what_is_allowed_is_not_looked_at() {
    assert_eq!(policy().check("a quartz lamp on a desk"), Verdict::Pass);
    assert!(blocked("a quartz lamp made of quartz"));
}

#[test]
fn disguises_do_not_help() {
    for prompt in [
        "a qu4rtz mountain",
        "a q.u.a.r.t.z mountain",
        "a quаrtz mountain",
        "a ｑuartz mountain",
        "a quar\u{200d}tz mountain",
        "a quuuuartz mountain",
        "blue gr@n1te",
        "m\u{332}arbles",
    ] {
        assert!(blocked(prompt), "{prompt}");
    }
}

#[test]
fn a_policy_that_is_none_says_where() {
    for (text, part) in [
        ("", "name"),
        ("name = \"a\"\n[[category]]\nname = \"b\"\naction = \"burn\"\nphrases = [\"c\"]", "burn"),
        ("name = \"a\"\n[[category]]\nname = \"b\"\naction = \"block\"", "`b`"),
        ("name = \"a\"\n[[category]]\nname = \"b\"\naction = \"block\"\nphrases = [\"...\"]", "..."),
        ("name = \"a\"\n[[category]]\nname = \"b\"\naction = \"block\"\nphrase = [\"c\"]", "phrase"),
        (
            "name = \"a\"\n[[category]]\nname = \"b\"\naction = \"block\"\ntogether = [{within = 1, words = [[\"c\"]]}]",
            "two lists",
        ),
    ] {
        let error = Policy::parse(text).unwrap_err();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn the_policy_that_ships_lets_ordinary_prompts_pass() {
    let policy = Policy::built_in();
    let harmless = include_str!("harmless.txt");
    assert!(harmless.lines().count() >= 300);
    let refused: Vec<_> = harmless.lines().filter(|prompt| policy.check(prompt) != Verdict::Pass).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_ne!(policy.check("n.u.d.e child"), Verdict::Pass);
}

#[test]
fn a_refusal_does_not_repeat_the_prompt() {
    let error = policy().admit("a quartz mountain").unwrap_err();
    assert!(matches!(&error, Error::Refused { category, .. } if category == "stones"), "{error}");
    assert!(!error.to_string().contains("quartz"), "{error}");
}

/// A policy that writes to `log`, after five decisions.
fn decided(log: &Path) -> Arc<Policy> {
    let policy = Arc::new(Policy { audit: Some(AuditLog::new(log)), ..policy() });
    for prompt in ["snow", "quartz", "copper", "rain", "quartz"] {
        let _ = policy.admit(prompt);
    }
    policy
}

#[test]
fn the_log_shows_what_was_changed() {
    let folder = std::env::temp_dir().join(format!("soragen-audit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = folder.join("audit.jsonl");
    let policy = decided(&log);
    assert_eq!(verify(&log).unwrap(), 5);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("quartz") && text.matches("\"block\"").count() == 2);

    let lines: Vec<&str> = text.lines().collect();
    let changed = |lines: &[&str]| {
        std::fs::write(&log, lines.join("\n") + "\n").unwrap();
        verify(&log).unwrap_err().to_string()
    };
    assert!(changed(&lines[..4]).contains("head"), "cut off at the end");
    assert!(changed(&lines[1..]).contains("line 1"), "cut off at the beginning");
    assert!(
        changed(&[lines[0], lines[2], lines[1], lines[3], lines[4]]).contains("line 2"),
        "in another order"
    );
    let edited = lines[1].replace("\"block\"", "\"pass\"");
    assert!(changed(&[lines[0], &edited, lines[2], lines[3], lines[4]]).contains("line 2 was changed"));

    // After a line that is not whole nothing is written, and nothing passes.
    std::fs::write(&log, &text[..text.len() - 10]).unwrap();
    assert!(matches!(policy.admit("snow"), Err(Error::Invalid { .. })));
    std::fs::remove_dir_all(folder).unwrap();
}
