// SPDX-License-Identifier: MPL-2.0

//! The element's properties.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;

use crate::credentials::{Signer, Signing};
use crate::{Error, Result};

/// Seconds that a signing command may take.
const DEFAULT_TIMEOUT: u32 = 60;

#[derive(Clone, Debug)]
pub struct Settings {
    pub location: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub sign_command: Option<String>,
    pub sign_timeout: u32,
    pub embed_prompt: bool,
    pub provider: Option<String>,
    pub model: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            location: None,
            certificate: None,
            private_key: None,
            sign_command: None,
            sign_timeout: DEFAULT_TIMEOUT,
            embed_prompt: false,
            provider: None,
            model: None,
        }
    }
}

/// The properties, in the order in which they are shown.
pub fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let text = |name: &'static str, nick: &'static str, blurb: &'static str| {
            glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).mutable_ready().build()
        };
        vec![
            text("location", "File", "The file to write; until it is signed it has another name"),
            text(
                "certificate",
                "Certificate",
                "A PEM file: the signer's certificate, then those above it but for the last",
            ),
            text("private-key", "Private key", "A PEM file with the certificate's key, PKCS #8"),
            text(
                "sign-command",
                "Signing command",
                "In place of private-key: a program that is given on stdin what is to be signed and writes the \
                 signature to stdout",
            ),
            glib::ParamSpecUInt::builder("sign-timeout")
                .nick("Signing time limit")
                .blurb("Seconds after which a sign-command that has not ended is ended, and there is no file")
                .minimum(1)
                .default_value(DEFAULT_TIMEOUT)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("embed-prompt")
                .nick("Embed the prompt")
                .blurb("Whether what is signed has the prompts in it")
                .mutable_ready()
                .build(),
            text(
                "provider",
                "Provider",
                "Who runs the generator, to be in what is signed (unset = not said)",
            ),
            text("model", "Model", "What made the video (unset = what soragen upstream says)"),
        ]
    });
    &PROPERTIES
}

impl Settings {
    /// Takes a new value; says whether there is such a property.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let path =
            || value.get::<Option<PathBuf>>().ok().flatten().filter(|path| !path.as_os_str().is_empty());
        let text = || value.get::<Option<String>>().ok().flatten().filter(|text| !text.is_empty());
        match name {
            "location" => self.location = path(),
            "certificate" => self.certificate = path(),
            "private-key" => self.private_key = path(),
            "sign-command" => self.sign_command = text(),
            "sign-timeout" => self.sign_timeout = value.get().unwrap_or(DEFAULT_TIMEOUT),
            "embed-prompt" => self.embed_prompt = value.get().unwrap_or_default(),
            "provider" => self.provider = text(),
            "model" => self.model = text(),
            _ => return false,
        }
        true
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "location" => self.location.to_value(),
            "certificate" => self.certificate.to_value(),
            "private-key" => self.private_key.to_value(),
            "sign-command" => self.sign_command.to_value(),
            "sign-timeout" => self.sign_timeout.to_value(),
            "embed-prompt" => self.embed_prompt.to_value(),
            "provider" => self.provider.to_value(),
            "model" => self.model.to_value(),
            _ => return None,
        })
    }

    /// What the file is to be signed with.
    pub fn signer(&self) -> Result<Signer> {
        let none = |text: &str| Err(Error::Signer(text.into()));
        let Some(certificate) = &self.certificate else {
            return none(
                "there is nothing to sign with: set certificate, and private-key or sign-command; \
                         `soragen certificate` makes some to try it out",
            );
        };
        let signing = match (&self.private_key, &self.sign_command) {
            (Some(key), None) => Signing::Key(key.clone()),
            (None, Some(command)) => Signing::Command {
                words: split(command)?,
                limit: Duration::from_secs(self.sign_timeout.into()),
            },
            _ => return none("set one of private-key and sign-command"),
        };
        Signer::open(certificate, &signing)
    }
}

/// The words of a command line, as a shell would have them.
fn split(command: &str) -> Result<Vec<String>> {
    let words = glib::shell_parse_argv(command)
        .map_err(|e| Error::Signer(format!("sign-command is no command line: {e}")))?;
    words
        .into_iter()
        .map(|word| word.into_string())
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Signer("sign-command is no UTF-8".into()))
}
