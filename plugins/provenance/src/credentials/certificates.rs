// SPDX-License-Identifier: MPL-2.0

//! Test certificates. No verifier trusts them: a trusted signature needs a certificate from an authority on the C2PA
//! trust list.

use std::time::{Duration, SystemTime};

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::rand_core::{OsRng, RngCore};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
};

use crate::{Error, Result};

/// Validity of test certificates.
const LIFETIME: Duration = Duration::from_hours(24 * 365);

/// A test authority and a certificate that it issued, all in PEM. The private key of the authority is not kept.
pub struct TestChain {
    /// The certificate to sign with.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub private_key: String,
    /// The authority's certificate, to use as a trust anchor.
    pub authority: String,
}

struct KeyPair {
    signing: SigningKey,
    public: Vec<u8>,
}

impl KeyPair {
    fn random() -> Self {
        let signing = SigningKey::random(&mut OsRng);
        let public = signing.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        Self { signing, public }
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature =
            self.signing.try_sign(message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_bytes().to_vec())
    }
}

/// Creates a P-256 certificate chain for `organization` that is valid for one year.
///
/// # Errors
/// [`Error::Certificate`].
pub fn test_chain(organization: &str) -> Result<TestChain> {
    let failed = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let (root, leaf) = (KeyPair::random(), KeyPair::random());
    let now = SystemTime::now();
    let params = |name: &str, key: &KeyPair| {
        let mut params = CertificateParams::default();
        params.not_before = now.into();
        params.not_after = (now + LIFETIME).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        let mut serial = [0; 16];
        OsRng.fill_bytes(&mut serial);
        // The serial number must be positive and have no leading zero byte.
        serial[0] = serial[0] & 0x7f | 1;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let id = blake3::hash(&key.public).as_bytes()[..20].to_vec();
        params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        params.use_authority_key_identifier_extension = true;
        params
    };
    let mut ca_params = params("Test authority, not to be trusted", &root);
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = ca_params.self_signed(&root).map_err(|e| failed(&e))?;
    let issuer = Issuer::from_params(&ca_params, &root);

    let mut leaf_params = params("Test signer, not to be trusted", &leaf);
    leaf_params.is_ca = IsCa::ExplicitNoCa;
    leaf_params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf_params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    let certificate = leaf_params.signed_by(&leaf, &issuer).map_err(|e| failed(&e))?;
    let private_key = leaf.signing.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?.to_string();
    Ok(TestChain { certificate: certificate.pem(), private_key, authority: authority.pem() })
}
