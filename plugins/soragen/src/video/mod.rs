// SPDX-License-Identifier: MPL-2.0

//! Videos from files, and conversion between raw video frames and 8-bit RGB.

pub mod convert;
pub mod cuda;
pub mod input;
pub mod rgb;
pub mod side_input;
pub mod side_pad;
