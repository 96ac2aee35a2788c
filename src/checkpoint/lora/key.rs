//! The names of tensors in LoRA files.
//!
//! Tools write different names: PEFT and diffusers `lora_A` and `lora_B`; ComfyUI and lightx2v `lora_down`, `lora_up`,
//! `alpha`, `diff`, `diff_b` and `diff_m`; kohya names with underscores. The layers have diffusers' or Wan's names.

/// What a tensor in a LoRA file is for.
#[derive(Debug, PartialEq)]
pub enum Key {
    /// It changes the layer or tensor with this name.
    Change(String, Role),
    /// It belongs to a method that is not supported, with this name.
    Method(&'static str),
    /// It changes a text encoder.
    TextEncoder,
    /// Its name has none of the known endings.
    Unknown,
}

/// How a tensor changes its layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Down,
    Up,
    Alpha,
    /// Is added to the weight, or to a tensor that is no layer.
    Difference,
    /// Is added to the bias.
    BiasDifference,
}

const ENDINGS: [(&str, Role); 9] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".diff", Role::Difference),
    (".diff_b", Role::BiasDifference),
];

/// lightx2v's ending for a change of the tensor `modulation` of a block or of the head.
const MODULATION: &str = ".diff_m";

/// Parts of names that other methods write.
const METHODS: [(&str, &str); 7] = [
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".lokr_", "LoKr"),
    (".hada_", "LoHa"),
    (".oft_", "OFT"),
    (".boft_", "BOFT"),
    (".lora_mid.", "LoCon with a third matrix"),
];

/// Prefixes of text encoders: kohya's, ComfyUI's, diffusers'.
const TEXT_ENCODERS: [&str; 5] = ["lora_te", "text_encoder", "cond_stage_model.", "conditioner.", "te1_"];

/// Parts of names that only transformers with an image encoder have (Wan 2.1 I2V), Wan's and diffusers'.
const IMAGE: [&str; 6] = ["k_img", "v_img", "img_emb", "add_k_proj", "add_v_proj", "image_embedder"];

impl Key {
    /// The meaning of the tensor `name`.
    pub fn parse(name: &str) -> Self {
        if let Some((_, method)) = METHODS.iter().find(|(part, _)| name.contains(part)) {
            return Self::Method(method);
        }
        if TEXT_ENCODERS.iter().any(|prefix| name.starts_with(prefix)) {
            return Self::TextEncoder;
        }
        if let Some(block) = name.strip_suffix(MODULATION) {
            return Self::Change(format!("{block}.modulation"), Role::Difference);
        }
        let ending = ENDINGS.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)));
        ending.map_or(Self::Unknown, |(layer, role)| Self::Change(layer.into(), role))
    }
}

/// Whether `name` is a layer for the output of an image encoder.
pub fn is_image(name: &str) -> bool {
    IMAGE.iter().any(|part| name.contains(part))
}
