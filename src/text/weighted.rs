//! Prompts with weights: `a fox :: 0.7 | a wolf :: 0.3`.
//!
//! The embedding is the mean of those of the parts, by their weights. `\|` and `\::` are the characters themselves.

/// The largest number of parts. Each is encoded on its own.
const MAX_PARTS: usize = 8;

/// A part of a prompt, and its share; all shares together are 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub text: String,
    pub share: f64,
}

/// The parts of `prompt`. A prompt without weights is one part, parts without one have the weight 1, and parts with the weight 0 are left
/// out.
///
/// # Errors
/// The reason why such weights are not possible.
pub fn parts(prompt: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for (text, weight) in split(prompt) {
        let share = match weight {
            None => 1.0,
            Some(weight) => parse_weight(&weight)?,
        };
        if text.is_empty() {
            return Err("a part of the prompt is empty; write `\\|` for the character |".into());
        }
        parts.push(Part { text, share });
    }
    if parts.len() > MAX_PARTS {
        return Err(format!("a prompt has at most {MAX_PARTS} parts with weights, not {}", parts.len()));
    }
    let sum: f64 = parts.iter().map(|part| part.share).sum();
    if !(sum.is_finite() && sum > 0.0) {
        return Err("the weights of the prompt must have a sum above 0, and a finite one".into());
    }
    parts.retain(|part| part.share > 0.0);
    parts.iter_mut().for_each(|part| part.share /= sum);
    Ok(parts)
}

/// The part with the largest weight, the first of several; `prompt` itself if its weights are not possible.
pub fn main_part(prompt: &str) -> String {
    let parts = parts(prompt).unwrap_or_default();
    let largest = parts.into_iter().reduce(|a, b| if b.share > a.share { b } else { a });
    largest.map_or_else(|| prompt.into(), |part| part.text)
}

fn parse_weight(text: &str) -> Result<f64, String> {
    let weight = text.parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0);
    weight.ok_or_else(|| {
        format!("`{text}` is no weight; after `::` write a number such as 0.7, or `\\::` for the two colons")
    })
}

/// Texts and weights between the separators, as they are written, without the spaces around them.
fn split(prompt: &str) -> Vec<(String, Option<String>)> {
    let mut parts: Vec<(String, Option<String>)> = vec![Default::default()];
    let mut rest = prompt;
    while let Some(next) = rest.chars().next() {
        let [.., (text, weight)] = &mut parts[..] else { unreachable!("it begins with a part") };
        let escaped = ["|", "::"]
            .into_iter()
            .find(|token| rest.strip_prefix('\\').is_some_and(|after| after.starts_with(token)));
        let token = if let Some(token) = escaped {
            rest = &rest[1..];
            token
        } else if next == '|' {
            rest = &rest[1..];
            parts.push(Default::default());
            continue;
        } else if weight.is_none() && rest.starts_with("::") {
            rest = &rest[2..];
            *weight = Some(String::new());
            continue;
        } else {
            &rest[..next.len_utf8()]
        };
        weight.as_mut().unwrap_or(text).push_str(token);
        rest = &rest[token.len()..];
    }
    let trim = |text: String| text.trim().to_string();
    parts.into_iter().map(|(text, weight)| (trim(text), weight.map(trim))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prompt: &str) -> Vec<(String, f64)> {
        parts(prompt).unwrap().into_iter().map(|part| (part.text, part.share)).collect()
    }

    #[test]
    fn weights_are_normalised() {
        assert_eq!(of("a fox :: 7 | a wolf :: 3"), [("a fox".into(), 0.7), ("a wolf".into(), 0.3)]);
        assert_eq!(of("a fox | a wolf"), [("a fox".into(), 0.5), ("a wolf".into(), 0.5)]);
        assert_eq!(of("a fox::0 | a wolf"), [("a wolf".into(), 1.0)]);
        assert_eq!(of("a fox: it runs"), [("a fox: it runs".into(), 1.0)]);
    }

    #[test]
    fn a_backslash_keeps_the_characters() {
        assert_eq!(of(r"std\::vector \| a sign"), [("std::vector | a sign".into(), 1.0)]);
        assert_eq!(of(r"a \ b"), [(r"a \ b".into(), 1.0)]);
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for prompt in
            ["a fox :: red", "a fox :: -1", "a fox :: inf", "a fox :: 1 :: 2", "a |", "| a", "a :: 0"]
        {
            assert!(parts(prompt).is_err(), "{prompt}");
        }
        assert!(parts(&["a"; MAX_PARTS + 1].join("|")).is_err());
        assert!(parts(&["a"; MAX_PARTS].join("|")).is_ok());
        assert!(parts("a :: 1e308 | b :: 1e308").is_err(), "the sum is not finite");
    }

    #[test]
    fn the_part_with_the_largest_weight_is_the_main_one() {
        assert_eq!(main_part("a fox :: 0.4 | a wolf :: 0.6"), "a wolf");
        assert_eq!(main_part("a fox | a wolf"), "a fox");
        assert_eq!(main_part("a fox ::"), "a fox ::");
    }
}
