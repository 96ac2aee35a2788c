// SPDX-License-Identifier: MPL-2.0

//! Signers: a private key in a file, or an external command.

use std::path::PathBuf;
use std::time::Duration;

use c2pa::{BoxedSigner, CallbackSigner, SigningAlg};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::command;
use crate::{Error, Result};

/// The source of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningMethod {
    /// The file of a private key: PKCS #8 in PEM.
    PrivateKey(PathBuf),
    /// A program that reads the data from stdin and writes the signature to stdout. An ECDSA signature may be in DER, as
    /// OpenSSL writes it, or the concatenation of r and s.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Maximum run time.
        timeout: Duration,
    },
}

/// A signing key or command with its certificate chain.
pub struct Signer(BoxedSigner);

impl Signer {
    /// Opens a signer. `certificates` is a PEM file: the signer's certificate, then the intermediates, without the root.
    /// The C2PA requires a P-256, P-384, P-521, Ed25519 or RSA (2048 bits) key, not self-signed, for e-mail protection,
    /// document signing or C2PA signing.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Signer`] for files that cannot be read or used. A command is not run here, so its
    /// errors occur when signing.
    pub fn open(certificates: &std::path::Path, method: &SigningMethod) -> Result<Self> {
        let chain = std::fs::read(certificates).map_err(Error::io(certificates))?;
        let unusable =
            |reason: &dyn std::fmt::Display| Error::Signer(format!("{}: {reason}", certificates.display()));
        let first = Pem::iter_from_buffer(&chain)
            .next()
            .ok_or_else(|| unusable(&"the file has no PEM certificate"))?
            .map_err(|e| unusable(&e))?;
        let certificate = first.parse_x509().map_err(|e| unusable(&e))?;
        let algorithm = algorithm(certificate.public_key())
            .ok_or_else(|| unusable(&"unsupported key type; use P-256, P-384, P-521, Ed25519 or RSA"))?;
        Ok(Self(match method {
            SigningMethod::PrivateKey(path) => {
                let key = std::fs::read(path).map_err(Error::io(path))?;
                c2pa::create_signer::from_keys(&chain, &key, algorithm, None).map_err(|e| {
                    Error::Signer(format!(
                        "{}: not a private key of the certificate (PKCS #8 in PEM): {e}",
                        path.display()
                    ))
                })?
            }
            SigningMethod::Command { command, timeout } => {
                let (command, timeout) = (command.clone(), *timeout);
                let sign = move |_: *const (), data: &[u8]| {
                    command::run(&command, data, timeout)
                        .map_err(|reason| c2pa::Error::OtherError(reason.into()))
                };
                Box::new(CallbackSigner::new(sign, algorithm, chain))
            }
        }))
    }

    pub(super) fn as_c2pa(&self) -> &dyn c2pa::Signer {
        &*self.0
    }
}

/// The signature algorithm of a key.
fn algorithm(key: &SubjectPublicKeyInfo) -> Option<SigningAlg> {
    let kind = &key.algorithm.algorithm;
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        let curves = [
            (OID_EC_P256, SigningAlg::Es256),
            (OID_NIST_EC_P384, SigningAlg::Es384),
            (OID_NIST_EC_P521, SigningAlg::Es512),
        ];
        curves.into_iter().find(|(oid, _)| *oid == curve).map(|(_, algorithm)| algorithm)
    } else if *kind == OID_SIG_ED25519 {
        Some(SigningAlg::Ed25519)
    } else if *kind == OID_PKCS1_RSAENCRYPTION || *kind == OID_PKCS1_RSASSAPSS {
        Some(SigningAlg::Ps256)
    } else {
        None
    }
}
