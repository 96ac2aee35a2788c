//! The messages of the WebSocket, as JSON objects with a `type`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// To the page.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToPage {
    /// A WebRTC offer.
    Offer {
        sdp: String,
    },
    /// An ICE candidate.
    Ice {
        candidate: String,
        line: u32,
    },
    /// The values of the properties that the page can set.
    Values {
        values: Map<String, Value>,
        paused: bool,
        recording: Option<String>,
        /// Whether they are those of a camera, which is shown.
        camera: bool,
    },
    /// An answer to the offer of a camera.
    CameraAnswer {
        sdp: String,
    },
    /// An ICE candidate for a camera.
    CameraIce {
        candidate: String,
        line: u32,
    },
    /// A camera is in the stream, or no longer.
    Camera {
        connected: bool,
    },
    /// So many shots of a storyboard are to come.
    Storyboard {
        left: usize,
    },
    /// A shot is shown.
    Shot {
        prompt: String,
        seed: u64,
        start: f64,
        references: Vec<String>,
    },
    /// The slate is shown, or no longer.
    Slate {
        shown: bool,
        reason: Option<String>,
    },
    /// A change was refused.
    Refused {
        property: Option<String>,
        reason: String,
    },
    /// Something that the user should know.
    Warning {
        text: String,
    },
    /// The programme has ended with an error.
    Failed {
        text: String,
    },
    Meter(Meter),
    /// A recording was begun, or has ended.
    Recording {
        file: Option<String>,
    },
}

/// How the programme goes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Meter {
    /// Frames that the model makes in a second, while it works.
    pub fps: f64,
    /// Frames that were late.
    pub late: u64,
    /// Milliseconds that the last chunk took.
    pub chunk: f64,
    /// Milliseconds that a frame takes through the element.
    pub latency: f64,
    /// Viewers whose connection is in memory.
    pub viewers: usize,
}

/// From the page.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromPage {
    /// Asks for the picture.
    Watch,
    /// A WebRTC answer.
    Answer {
        sdp: String,
    },
    /// An ICE candidate.
    Ice {
        candidate: String,
        line: u32,
    },
    /// Sets properties.
    Set {
        values: Map<String, Value>,
    },
    /// Starts a model again that has failed.
    Regenerate,
    Pause {
        paused: bool,
    },
    Record {
        on: bool,
    },
    /// Plays a storyboard from now on; an empty text ends the one that plays.
    Storyboard {
        text: String,
    },
    /// A WebRTC offer with a camera.
    Camera {
        sdp: String,
    },
    /// An ICE candidate of a camera.
    CameraIce {
        candidate: String,
        line: u32,
    },
    CameraStop,
}
