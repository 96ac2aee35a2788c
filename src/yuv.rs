//! The conversion from R'G'B' to Y'CbCr 4:2:0, as both the CPU and a GPU compute it.

/// How R'G'B' becomes Y'CbCr 4:2:0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YuvColours {
    /// Weight of red in luma.
    pub red: f64,
    /// Weight of blue in luma.
    pub blue: f64,
    /// Luma from 0 to 255; otherwise from 16 to 235.
    pub full_range: bool,
    /// A sample of chroma is on the first of two columns, not between them.
    pub horizontally_cosited: bool,
    /// A sample of chroma is on the first of two rows, not between them.
    pub vertically_cosited: bool,
}

/// The matrix from R'G'B' to Y'CbCr, for levels from 0 to 255: section 3 of ITU-R BT.601 and BT.709.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YuvMatrix {
    /// Weights of red, green and blue in luma.
    pub luma: [f32; 3],
    /// In the first component of chroma, without its offset of 128.
    pub blue: [f32; 3],
    /// In the second component of chroma, without its offset of 128.
    pub red: [f32; 3],
    /// Luma of black.
    pub black: f32,
}

/// The weights of the pixels that a sample of chroma is filtered from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChromaSiting {
    /// The row before the two of the sample, and those two.
    pub rows: [f32; 3],
    /// The column before the two of the sample, and those two. Together with the rows they add up to 1.
    pub columns: [f32; 3],
}

impl YuvColours {
    /// The matrix of these colours.
    pub fn matrix(&self) -> YuvMatrix {
        let (kr, kb) = (self.red as f32, self.blue as f32);
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = if self.full_range { (0.0, 255.0, 255.0) } else { (16.0, 219.0, 224.0) };
        let (luma, chroma) = (luma / 255.0, chroma / 255.0 / 2.0);
        YuvMatrix {
            luma: [kr * luma, kg * luma, kb * luma],
            blue: [-kr / (1.0 - kb) * chroma, -kg / (1.0 - kb) * chroma, chroma],
            red: [chroma, -kg / (1.0 - kr) * chroma, -kb / (1.0 - kr) * chroma],
            black,
        }
    }

    /// The filter of chroma: 1-2-1 where a sample is on a pixel, and 1-1 where it is between two.
    pub fn siting(&self) -> ChromaSiting {
        let weights = |cosited, sum: f32| {
            let weights = if cosited { [0.25, 0.5, 0.25] } else { [0.0, 0.5, 0.5] };
            weights.map(|weight: f32| weight * sum)
        };
        ChromaSiting {
            rows: weights(self.vertically_cosited, 2.0),
            columns: weights(self.horizontally_cosited, 0.5),
        }
    }
}
