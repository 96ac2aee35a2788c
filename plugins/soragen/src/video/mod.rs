// SPDX-License-Identifier: MPL-2.0

//! Conversion between raw video frames and 8-bit RGB.

pub mod convert;
pub mod rgb;
