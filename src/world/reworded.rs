//! Phrases in place of others.

/// `text` with `other` in place of `phrase`, wherever that is whole words, in upper or lower case.
pub fn replaced(text: &str, phrase: &str, other: &str) -> String {
    let (lower, phrase) = (text.to_ascii_lowercase(), phrase.to_ascii_lowercase());
    let (mut made, mut rest) = (String::with_capacity(text.len()), 0);
    for (start, found) in lower.match_indices(&phrase).filter(|(_, found)| !found.is_empty()) {
        let end = start + found.len();
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        if is_word(text[..start].chars().next_back()) || is_word(text[end..].chars().next()) {
            continue;
        }
        made += &text[rest..start];
        made += other;
        rest = end;
    }
    made + &text[rest..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_replaced() {
        let read = |text: &str| replaced(text, "by the sea", "on the beach");
        assert_eq!(read("By the sea a dog waits, by the sea"), "on the beach a dog waits, on the beach");
        for same in ["by the seaside", "nearby the sea", "at sea", "", "é by the séa"] {
            assert_eq!(read(same), same);
        }
        assert_eq!(replaced("a fox", "", "b"), "a fox");
    }
}
