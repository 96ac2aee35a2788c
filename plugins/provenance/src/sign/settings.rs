// SPDX-License-Identifier: MPL-2.0

//! The properties of `c2pasink`.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;

use crate::credentials::{Signer, SigningMethod};
use crate::{Error, Result};

/// Timeout of a signing command in seconds.
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

/// The properties, in the order of the documentation.
pub fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let text = |name: &'static str, nick: &'static str, blurb: &'static str| {
            glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).mutable_ready().build()
        };
        vec![
            text(
                "location",
                "File",
                "File to write; it has a temporary name until it is signed. A FIFO, /dev/stdout and /dev/null get the \
                 complete file at the end",
            ),
            text(
                "certificate",
                "Certificate",
                "PEM file: the signer's certificate, then the intermediate certificates, without the root",
            ),
            text("private-key", "Private key", "PEM file with the private key of the certificate, PKCS #8"),
            text(
                "sign-command",
                "Signing command",
                "Program that signs, instead of private-key: it reads the data from stdin and writes the signature \
                 to stdout",
            ),
            glib::ParamSpecUInt::builder("sign-timeout")
                .nick("Signing timeout")
                .blurb("Timeout of sign-command in seconds; after it the program is killed and no file is written")
                .minimum(1)
                .default_value(DEFAULT_TIMEOUT)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("embed-prompt")
                .nick("Embed the prompt")
                .blurb("Include the prompts in the manifest and in the tags of the file")
                .mutable_ready()
                .build(),
            text("provider", "Provider", "Operator of the generator, named in the manifest (unset = none)"),
            text("model", "Model", "Name of the model that generated the video (unset = from soragen upstream)"),
        ]
    });
    &PROPERTIES
}

impl Settings {
    /// Sets a property. Returns whether it exists.
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

    /// Opens the certificate and the private key or the signing command.
    pub fn signer(&self) -> Result<Signer> {
        let error = |text: &str| Err(Error::Signer(text.into()));
        let Some(certificate) = &self.certificate else {
            return error(
                "no signer: set certificate, and private-key or sign-command; `soragen certificate` creates \
                 test certificates",
            );
        };
        let method = match (&self.private_key, &self.sign_command) {
            (Some(key), None) => SigningMethod::PrivateKey(key.clone()),
            (None, Some(command)) => SigningMethod::Command {
                command: split(command)?,
                timeout: Duration::from_secs(self.sign_timeout.into()),
            },
            _ => return error("set one of private-key and sign-command"),
        };
        Signer::open(certificate, &method)
    }
}

/// Splits a command line into arguments, with the quoting rules of a shell.
fn split(command: &str) -> Result<Vec<String>> {
    let words = glib::shell_parse_argv(command)
        .map_err(|e| Error::Signer(format!("sign-command cannot be parsed: {e}")))?;
    words
        .into_iter()
        .map(|word| word.into_string())
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Signer("sign-command is not UTF-8".into()))
}
