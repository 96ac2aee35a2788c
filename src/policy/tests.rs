//! Decisions about prompts.

use super::*;

/// A policy with invented categories.
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
fn words_phrases_endings_and_pairs_match() {
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
fn allowed_words_do_not_match_other_categories() {
    assert_eq!(policy().check("a quartz lamp on a desk"), Verdict::Pass);
    assert!(blocked("a quartz lamp made of quartz"));
}

#[test]
fn disguised_words_match() {
    for prompt in [
        "a qu4rtz mountain",
        "a q.u.a.r.t.z mountain",
        "a quаrtz mountain",
        "a ｑuartz mountain",
        "a quar\u{200d}tz mountain",
        "a quuuuartz mountain",
        "blue gr@n1te",
        "bluegranite",
        "b l u e  g r a n i t e",
        "m\u{332}arbles",
    ] {
        assert!(blocked(prompt), "{prompt}");
    }
}

#[test]
fn the_error_for_an_invalid_policy_names_the_mistake() {
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
fn the_default_policy_lets_ordinary_prompts_pass() {
    let policy = Policy::built_in();
    let harmless = include_str!("harmless.txt");
    assert!(harmless.lines().count() >= 300);
    let refused: Vec<_> = harmless.lines().filter(|prompt| policy.check(prompt) != Verdict::Pass).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_ne!(policy.check("n.u.d.e child"), Verdict::Pass);
}

#[test]
fn the_error_of_a_refusal_does_not_contain_the_prompt() {
    let error = policy().admit("a quartz mountain").unwrap_err();
    assert!(matches!(&error, Error::Refused { category, .. } if category == "stones"), "{error}");
    assert!(!error.to_string().contains("quartz"), "{error}");
}

/// A policy that has logged five decisions to `log`.
fn policy_with_log(log: &Path) -> Arc<Policy> {
    let policy = Arc::new(Policy { audit: Some(AuditLog::new(log)), ..policy() });
    for prompt in ["snow", "quartz", "copper", "rain", "quartz"] {
        let _ = policy.admit(prompt);
    }
    policy
}

#[test]
fn changes_of_the_log_are_detected() {
    let folder = std::env::temp_dir().join(format!("soragen-audit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = folder.join("audit.jsonl");
    let policy = policy_with_log(&log);
    assert_eq!(verify(&log).unwrap(), 5);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("quartz") && text.matches("\"block\"").count() == 2);

    let lines: Vec<&str> = text.lines().collect();
    let changed = |lines: &[&str]| {
        std::fs::write(&log, lines.join("\n") + "\n").unwrap();
        verify(&log).unwrap_err().to_string()
    };
    assert!(changed(&lines[..4]).contains("head"), "truncated at the end");
    // No further line is written, and no prompt passes.
    assert!(matches!(policy.admit("snow"), Err(Error::Invalid { .. })));
    std::fs::write(&log, "").unwrap();
    assert!(matches!(policy.admit("snow"), Err(Error::Invalid { .. })));
    assert!(changed(&lines[1..]).contains("line 1"), "truncated at the beginning");
    assert!(
        changed(&[lines[0], lines[2], lines[1], lines[3], lines[4]]).contains("line 2"),
        "in another order"
    );
    let edited = lines[1].replace("\"block\"", "\"pass\"");
    assert!(changed(&[lines[0], &edited, lines[2], lines[3], lines[4]]).contains("line 2 was changed"));

    // After an incomplete line nothing is written, and no prompt passes.
    std::fs::write(&log, &text[..text.len() - 10]).unwrap();
    assert!(matches!(policy.admit("snow"), Err(Error::Invalid { .. })));

    // A process that was stopped before it wrote the head leaves a valid log.
    std::fs::write(&log, &text).unwrap();
    let before: serde_json::Value = serde_json::from_str(lines[4]).unwrap();
    std::fs::write(folder.join("audit.jsonl.head"), format!("4 {}\n", before["before"].as_str().unwrap()))
        .unwrap();
    policy.admit("snow").unwrap();
    assert_eq!(verify(&log).unwrap(), 6);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn obfuscated_prompts_are_blocked_and_harmless_ones_pass() {
    let policy = policy();
    let red: Vec<&str> = include_str!("obfuscated.txt").lines().collect();
    let passed: Vec<&str> = red.iter().filter(|prompt| !blocked(prompt)).copied().collect();
    // Marble is what this policy is about.
    let harmless = include_str!("harmless.txt").lines().filter(|prompt| !prompt.contains("marble"));
    let refused: Vec<&str> = harmless.filter(|prompt| policy.check(prompt) != Verdict::Pass).collect();
    println!("blocked: {} of {}; through: {passed:?}", red.len() - passed.len(), red.len());
    // Unknown spellings pass; most are known.
    assert!(red.len() >= 60 && passed.len() * 10 <= red.len(), "{passed:?}");
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn wrong_similarity_settings_are_errors() {
    let table =
        |more: &str| format!("name = \"t\"\n[[category]]\nname = \"b\"\n{more}\nlike = [\"a storm\"]");
    for (text, part) in
        [(table("action = \"allow\""), "allow"), (table("action = \"block\"\nlikeness = 2.0"), "likeness")]
    {
        let error = Policy::parse(&text).unwrap_err();
        assert!(error.contains("`b`") && error.contains(part), "{error}");
    }
}

/// The verdict of a policy with a shell script as its hook on "a quartz mountain".
#[cfg(unix)]
fn verdict_of_hook(script: &str, timeout: f32) -> Verdict {
    let text = format!("name = \"t\"\n[hook]\ncommand = [\"sh\", \"-c\", '{script}']\ntimeout = {timeout:?}");
    Policy::parse(&text).unwrap().check("a quartz mountain")
}

#[cfg(unix)]
#[test]
fn a_hook_decides_and_its_failure_refuses_the_prompt() {
    let block = |category: &str| Verdict::Block(category.into());
    let none = "the hook gives no answer";
    assert_eq!(verdict_of_hook("exit 0", 60.0), Verdict::Pass);
    assert_eq!(verdict_of_hook("grep -q quartz && echo stones && exit 3", 60.0), block("stones"));
    assert_eq!(verdict_of_hook("grep -q granite && echo stones && exit 3; exit 0", 60.0), Verdict::Pass);
    assert_eq!(verdict_of_hook("exit 3", 60.0), block("refused by the hook"));
    assert_eq!(verdict_of_hook("exit 1", 60.0), block(none));
    assert_eq!(verdict_of_hook("kill -9 $$", 60.0), block(none));
    assert_eq!(verdict_of_hook("exec sleep 600", 0.05), block(none));
    assert_eq!(verdict_of_hook("yes", 0.05), block(none), "endless output");
    let missing = Policy::parse("name = \"t\"\n[hook]\ncommand = [\"/no/such/program\"]").unwrap();
    assert_eq!(missing.check("snow"), block(none));
    for (hook, part) in
        [("command = []", "empty"), ("command = [\"a\"]\ntimeout = 0.0", "timeout"), ("", "command")]
    {
        let error = Policy::parse(&format!("name = \"t\"\n[hook]\n{hook}")).unwrap_err();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn the_application_can_refuse_a_prompt_that_would_pass() {
    let guarded = policy().guarded(|prompt| !prompt.contains("snow"));
    assert_eq!(guarded.check("rain"), Verdict::Pass);
    assert_eq!(guarded.check("snow"), Verdict::Block("refused by the application".into()));
    assert_eq!(guarded.check("quartz"), Verdict::Block("stones".into()));
}
