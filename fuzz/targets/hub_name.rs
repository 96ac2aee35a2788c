#![no_main]
//! Names of hub models: an accepted name stays within the cache.

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use soragen::hub::{Hub, HubName};

fuzz_target!(|text: &str| {
    let Ok(Some(name)) = HubName::parse(&format!("hf:{text}")) else { return };
    let again = HubName::parse(&name.to_string()).ok().flatten();
    assert_eq!(again.as_ref(), Some(&name), "a printed name can be parsed");
    for part in [name.repository(), name.revision()] {
        let mut components = std::path::Path::new(part).components();
        assert!(components.all(|component| matches!(component, Component::Normal(_))), "{part}");
        assert!(!part.contains(['\\', '%', '?', '#', '\0', ':']), "{part}");
    }
    assert_eq!(name.repository().split('/').count(), 2);
    let hub = Hub { endpoint: String::new(), cache: soragen_fuzz::folder().into(), token: None, offline: true };
    assert!(hub.find(&name).is_err(), "the cache is empty");
});
