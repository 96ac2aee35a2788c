// SPDX-License-Identifier: MPL-2.0

//! What signs: a key in a file, or a program that has one.

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

/// Where the signature comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signing {
    /// A private key: PKCS #8 in PEM.
    Key(PathBuf),
    /// A program and its arguments: it is given on stdin what is to be signed, and gives the signature on stdout. Of
    /// an elliptic curve this may be in DER, as OpenSSL writes it, or its two numbers one after the other.
    Command {
        /// The program, and its arguments.
        words: Vec<String>,
        /// How long it may take.
        limit: Duration,
    },
}

/// Something to sign with, and the certificates that say whose it is.
pub struct Signer(BoxedSigner);

impl Signer {
    /// `certificates` is a PEM file: the signer's certificate, then those above it but for the last. They have to be
    /// what the C2PA asks for: an elliptic curve (P-256, P-384, P-521), Ed25519 or RSA of 2048 bits, not signed by
    /// itself, for e-mail protection, document signing or C2PA signing.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Signer`] for files that cannot be read or used. Whether a command signs shows when it
    /// does.
    pub fn open(certificates: &std::path::Path, signing: &Signing) -> Result<Self> {
        let chain = std::fs::read(certificates).map_err(Error::io(certificates))?;
        let unusable =
            |reason: &dyn std::fmt::Display| Error::Signer(format!("{}: {reason}", certificates.display()));
        let first = Pem::iter_from_buffer(&chain)
            .next()
            .ok_or_else(|| unusable(&"there is no PEM certificate in it"))?
            .map_err(|e| unusable(&e))?;
        let certificate = first.parse_x509().map_err(|e| unusable(&e))?;
        let algorithm = algorithm(certificate.public_key()).ok_or_else(|| {
            unusable(
                &"its key is of a kind that the C2PA does not know; take P-256, P-384, P-521, Ed25519 or RSA",
            )
        })?;
        Ok(Self(match signing {
            Signing::Key(path) => {
                let key = std::fs::read(path).map_err(Error::io(path))?;
                c2pa::create_signer::from_keys(&chain, &key, algorithm, None).map_err(|e| {
                    Error::Signer(format!(
                        "{}: not the key of the certificate, PKCS #8 in PEM: {e}",
                        path.display()
                    ))
                })?
            }
            Signing::Command { words, limit } => {
                let (words, limit) = (words.clone(), *limit);
                let sign = move |_: *const (), data: &[u8]| {
                    command::run(&words, data, limit).map_err(|reason| c2pa::Error::OtherError(reason.into()))
                };
                Box::new(CallbackSigner::new(sign, algorithm, chain))
            }
        }))
    }

    pub(super) fn as_c2pa(&self) -> &dyn c2pa::Signer {
        &*self.0
    }
}

/// By which algorithm a key signs.
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
