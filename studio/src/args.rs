//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Shows a live `soragen` on a page, and lets the page steer it.
#[derive(clap::Parser, Clone, Debug)]
#[command(version)]
pub struct Args {
    /// What to show first
    #[arg(default_value = "a red fox runs over the snow")]
    pub prompt: String,
    /// Address to listen on. Another one than this machine's own needs --token, and is served over HTTPS
    #[arg(long, default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// A secret that the page's address must have
    #[arg(long)]
    pub token: Option<String>,
    /// Serve over HTTPS, with --certificate or one that is made at the start
    #[arg(long)]
    pub https: bool,
    /// PEM file with the certificate chain for HTTPS
    #[arg(long, requires = "private_key")]
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key for HTTPS
    #[arg(long, requires = "certificate")]
    pub private_key: Option<PathBuf>,
    /// Folder for recordings
    #[arg(long, default_value = "recordings")]
    pub recordings: PathBuf,
    /// Folder with the keys that sign recordings, as `soragen certificate` makes it
    #[arg(long)]
    pub keys: Option<PathBuf>,
    /// Offer the stream over HLS too, at /hls/stream.m3u8, a few seconds later
    #[arg(long)]
    pub hls: bool,
    /// A property of `soragen`, as in --set model=FOLDER; repeatable
    #[arg(long = "set", value_name = "PROPERTY=VALUE")]
    pub properties: Vec<String>,
}

impl Args {
    /// # Errors
    /// [`Error::Usage`] if others could reach the page without a token, or if it cannot be a part of an address.
    pub fn check(&self) -> Result<()> {
        if !self.listen.is_loopback() && self.token.as_ref().is_none_or(|token| token.len() < 8) {
            let reason =
                "other machines can reach this address; set --token to a secret of at least 8 characters";
            return Err(Error::Usage(reason.into()));
        }
        // It is a part of addresses.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if self.token.as_ref().is_some_and(|token| !token.chars().all(plain)) {
            return Err(Error::Usage("--token has letters, digits and - . _ ~ only".into()));
        }
        Ok(())
    }

    /// Whether the page is served over HTTPS. Browsers give a camera only then, except on the machine itself.
    pub fn is_https(&self) -> bool {
        self.https || self.certificate.is_some() || !self.listen.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn other_machines_need_a_token_and_get_https() {
        let args = |words: &[&str]| Args::try_parse_from([&["studio"][..], words].concat()).unwrap();
        assert!(args(&[]).check().is_ok() && !args(&[]).is_https());
        assert!(args(&["--listen", "0.0.0.0"]).check().is_err());
        assert!(args(&["--listen", "0.0.0.0", "--token", "short"]).check().is_err());
        assert!(args(&["--token", "long enough"]).check().is_err());
        let open = args(&["--listen", "0.0.0.0", "--token", "long-enough"]);
        assert!(open.check().is_ok() && open.is_https());
    }
}
