//! The environment variables of `huggingface_hub` (`huggingface_hub/constants.py`, `utils/_auth.py`).

use std::path::{Path, PathBuf};

use super::Hub;

/// The hub that `variable` configures: it returns the value of an environment variable. An empty value counts as none.
pub fn hub(variable: impl Fn(&str) -> Option<String>) -> Hub {
    let text = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
    let folder = |name: &str| text(name).map(|text| expand(&text, &variable));
    let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| expand("~/.cache", &variable));
    let home = folder("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
    let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
    let token_path = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
    let token = token.or_else(|| std::fs::read_to_string(token_path).ok());
    // A variable that says no wins over the other.
    let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
    let is_true = |text: String| matches!(text.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
    let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
    Hub {
        endpoint: endpoint.trim_end_matches('/').into(),
        cache: cache.unwrap_or_else(|| home.join("hub")),
        token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
        offline: offline.is_some_and(is_true),
    }
}

/// Python's `os.path.expandvars(os.path.expanduser(text))`: `~` is the home folder, `$NAME` and `${NAME}` are the values of
/// variables. What is unknown is kept. `~user` is not expanded.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let home = || variable("HOME").or_else(|| Some(std::env::home_dir()?.to_string_lossy().into_owned()));
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match home() {
            Some(home) => format!("{}{rest}", home.trim_end_matches('/')),
            None => text.into(),
        },
        _ => text.into(),
    };
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, name) = reference(&rest[1..]);
        match name.and_then(variable) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[..1 + length]),
        }
        rest = &rest[1 + length..];
    }
    out.push_str(rest);
    Path::new(&out).into()
}

/// The variable at the start of `text`, which follows a `$`: the bytes of its reference, and its name.
fn reference(text: &str) -> (usize, Option<&str>) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) => (end + 2, Some(&braced[..end])),
            None => (0, None),
        };
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    (end, Some(&text[..end]).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Hub {
        hub(|name| {
            let all = [("HOME", "/home/me"), ("DATA", "/data")];
            let mut all = variables.iter().chain(&all);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn variables_are_read_as_huggingface_hub_reads_them() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")], "/home/me/hf/hub"),
            (&[("HF_HOME", "$DATA/hf")], "/data/hf/hub"),
            (&[("HF_HOME", "${DATA}/hf${NONE}$")], "/data/hf${NONE}$/hub"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")], "/old"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "~")], "/home/me"),
            (&[("HF_HUB_CACHE", "~other/$DATA_2")], "~other/$DATA_2"),
        ] {
            assert_eq!(with(variables).cache, Path::new(cache), "{variables:?}");
        }
        assert_eq!(with(&[("HF_ENDPOINT", "https://mirror/")]).endpoint, "https://mirror");
        assert_eq!(with(&[("HUGGING_FACE_HUB_TOKEN", " t\n")]).token.as_deref(), Some("t"));
    }

    #[test]
    fn either_variable_stops_downloads() {
        for (variables, offline) in [
            (&[][..], false),
            (&[("HF_HUB_OFFLINE", "yes")], true),
            (&[("TRANSFORMERS_OFFLINE", "1")], true),
            (&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")], false),
            (&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "")], true),
        ] {
            assert_eq!(with(variables).offline, offline, "{variables:?}");
        }
    }
}
