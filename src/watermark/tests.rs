//! The watermark after scaling, cropping and other changes.

use std::time::Duration;

use rustfft::num_complex::Complex32;

use super::pattern::{EDGE, Role, Tile};
use super::*;

const WIDTH: usize = 320;
const HEIGHT: usize = 192;

/// The luma of a moving picture with coarse and fine detail, `[HEIGHT, WIDTH]`.
fn picture(time: usize) -> Vec<u8> {
    let sample = |x: usize, y: usize| {
        let (u, v) = ((x + 3 * time) as f32, y as f32);
        let hills = 40.0 * (u / 37.0).sin() * (v / 23.0).cos() + 20.0 * ((u + 2.0 * v) / 9.0).sin();
        let grain = ((x + 3 * time) * 7919 + y * 104_729) % 97;
        (128.0 + hills + grain as f32 / 8.0) as u8
    };
    (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| sample(x, y))).collect()
}

fn plane(data: &mut [u8], step: usize) -> Plane<'_> {
    Plane { data, stride: WIDTH * step, step, width: WIDTH, height: HEIGHT }
}

fn id() -> GenerationId {
    GenerationId::new(0xab_cdef_0123)
}

/// The time of a picture, at 16 per second.
fn at(time: usize) -> Duration {
    Duration::from_micros(62_500 * time as u64)
}

fn embed(data: &mut [u8], strength: f64, shot: u64, time: Duration) {
    Embedder::new(&WatermarkKey::public(), id(), strength).embed(&mut plane(data, 1), shot, time);
}

fn marked(time: usize, shot: u64) -> Vec<u8> {
    let mut data = picture(time);
    embed(&mut data, 1.0, shot, at(time));
    data
}

/// The difference that the watermark makes to a grey picture of this level.
fn changes(level: u8, strength: f64, shot: u64, time: Duration) -> Vec<f64> {
    let mut data = vec![level; WIDTH * HEIGHT];
    embed(&mut data, strength, shot, time);
    data.into_iter().map(|sample| f64::from(sample) - f64::from(level)).collect()
}

/// Root mean square.
fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}

/// The mean of pictures.
fn mean(pictures: &[Vec<f64>]) -> Vec<f64> {
    let sum = |i: usize| pictures.iter().map(|picture| picture[i]).sum::<f64>();
    (0..WIDTH * HEIGHT).map(|i| sum(i) / pictures.len() as f64).collect()
}

/// The detection in pictures of one size.
fn find(
    key: &WatermarkKey,
    pictures: impl IntoIterator<Item = Vec<u8>>,
    width: usize,
    height: usize,
) -> Detection {
    let mut detector = Detector::new(key);
    for (time, picture) in pictures.into_iter().enumerate() {
        detector.push(&picture, width, width, height, at(time));
    }
    detector.detect().unwrap()
}

/// Crops a picture at (`left`, `top`) and scales it by `scale` with bilinear interpolation.
fn resized(picture: &[u8], (left, top): (usize, usize), scale: f32, width: usize, height: usize) -> Vec<u8> {
    let at = |x: usize, y: usize| f32::from(picture[y.min(HEIGHT - 1) * WIDTH + x.min(WIDTH - 1)]);
    let sample = |x: usize, y: usize| {
        let (u, v) =
            (left as f32 + (x as f32 + 0.5) / scale - 0.5, top as f32 + (y as f32 + 0.5) / scale - 0.5);
        let (x, y, a, b) = (u as usize, v as usize, u.fract(), v.fract());
        let above = at(x, y) * (1.0 - a) + at(x + 1, y) * a;
        let below = at(x, y + 1) * (1.0 - a) + at(x + 1, y + 1) * a;
        (above * (1.0 - b) + below * b).round() as u8
    };
    (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| sample(x, y)).collect()
}

#[test]
fn a_second_is_enough_for_a_detection() {
    for frames in [16, 24] {
        let detection = find(&WatermarkKey::public(), (0..frames).map(|t| marked(t, 3)), WIDTH, HEIGHT);
        assert_eq!((detection.id, detection.frames), (Some(id()), frames as u64), "{detection:?}");
        assert_eq!(detection.scheme, Scheme::Rotating);
        assert!((detection.scale - 1.0).abs() < 0.01, "{detection:?}");
    }
}

#[test]
fn the_watermark_is_detected_after_scaling_and_cropping() {
    for (cut, scale, width, height) in [
        ((0, 0), 0.5, 160, 96),
        ((33, 21), 0.71, 190, 110),
        ((7, 50), 1.5, 440, 200),
        ((65, 42), 1.0, 227, 136),
    ] {
        let pictures = (0..16).map(|t| resized(&marked(t, 0), cut, scale, width, height));
        let detection = find(&WatermarkKey::public(), pictures, width, height);
        assert_eq!(detection.id, Some(id()), "{scale}: {detection:?}");
        assert!((detection.scale - f64::from(scale)).abs() < 0.02, "{detection:?}");
    }
}

#[test]
fn the_watermark_is_detected_after_upscaling_to_high_definition() {
    let pictures = (0..16).map(|t| resized(&marked(t, 0), (0, 12), 4.0, 1280, 720));
    let detection = find(&WatermarkKey::public(), pictures, 1280, 720);
    assert_eq!(detection.id, Some(id()), "{detection:?}");
    assert!((detection.scale - 4.0).abs() < 0.05, "{detection:?}");
}

#[test]
fn the_watermark_is_detected_after_a_change_of_brightness_and_contrast() {
    for (contrast, brightness) in [(0.5, 60.0), (1.5, -80.0)] {
        let change = |sample: u8| (f32::from(sample) * contrast + brightness) as u8;
        let pictures = (0..16).map(|t| marked(t, 0).into_iter().map(change).collect());
        assert_eq!(find(&WatermarkKey::public(), pictures, WIDTH, HEIGHT).id, Some(id()));
    }
}

#[test]
fn nothing_is_detected_without_a_watermark_or_with_another_key() {
    let none = find(&WatermarkKey::public(), (0..16).map(picture), WIDTH, HEIGHT);
    assert!(!none.is_marked(), "{none:?}");
    for key in 0..6u8 {
        let key = WatermarkKey::from_bytes(&[key; 16]).unwrap();
        let other = find(&key, (0..16).map(|t| marked(t, 0)), WIDTH, HEIGHT);
        assert!(!other.is_marked(), "{other:?}");
    }
    assert_eq!(Detector::new(&WatermarkKey::public()).detect(), None);
}

#[test]
fn a_change_of_size_discards_the_earlier_pictures() {
    let mut detector = Detector::new(&WatermarkKey::public());
    for time in 0..16 {
        detector.push(&marked(time, 0), WIDTH, WIDTH, HEIGHT, at(time));
    }
    assert_eq!(detector.detect().unwrap().id, Some(id()));
    for time in 0..8 {
        let picture = resized(&picture(time), (0, 0), 0.8, 256, 152);
        detector.push(&picture, 256, 256, 152, at(time));
    }
    let none = detector.detect().unwrap();
    assert!(!none.is_marked() && none.frames == 8, "{none:?}");
}

/// A picture with a watermark as earlier versions embedded it: the same pattern in all pictures, of 1.5 steps.
fn statically_marked(time: usize, bits: &[bool]) -> Vec<u8> {
    let tile = Tile::new(&WatermarkKey::public(), Scheme::Static);
    let add = |i: usize| {
        let pixel = i / WIDTH % EDGE * EDGE + i % WIDTH % EDGE;
        let chip = pixel / EDGE / Scheme::Static.cell() * Scheme::Static.side()
            + pixel % EDGE / Scheme::Static.cell();
        let sign = match tile.roles[chip] {
            Role::Bit(bit) if !bits[bit] => -tile.chips[chip],
            _ => tile.chips[chip],
        };
        assert_eq!(sign.im, 0.0);
        (2.5 * sign.re * Scheme::Static.weight(pixel)).round() as i8
    };
    picture(time).into_iter().enumerate().map(|(i, sample)| sample.saturating_add_signed(add(i))).collect()
}

#[test]
fn the_watermark_of_earlier_versions_is_detected() {
    let bits = payload::encode(id());
    let pictures = (0..8).map(|t| statically_marked(t, &bits));
    let detection = find(&WatermarkKey::public(), pictures, WIDTH, HEIGHT);
    assert_eq!((detection.id, detection.scheme), (Some(id()), Scheme::Static), "{detection:?}");
}

#[test]
fn the_first_pictures_are_enough_if_the_others_lost_the_watermark() {
    // Most pictures in the sum are busy and have no watermark.
    let bits = payload::encode(id());
    let grain = |i: usize| blake3::hash(&i.to_le_bytes()).as_bytes()[0] / 2;
    let busy = |time: usize| (0..WIDTH * HEIGHT).map(|i| 64 + grain(i + time % 3 * WIDTH * HEIGHT)).collect();
    let pictures = (0..4).map(|t| statically_marked(t, &bits)).chain((0..60).map(busy));
    let detection = find(&WatermarkKey::public(), pictures, WIDTH, HEIGHT);
    assert_eq!((detection.id, detection.frames), (Some(id()), 64), "{detection:?}");
}

#[test]
fn another_frame_rate_and_a_late_start_do_not_matter() {
    // Every fifth picture is missing, as are those of the first 0.7 s, and the times start at 0.
    let mut detector = Detector::new(&WatermarkKey::public());
    for time in (11..40).filter(|time| time % 5 != 0) {
        detector.push(&marked(time, 0), WIDTH, WIDTH, HEIGHT, at(time - 11));
    }
    assert_eq!(detector.detect().unwrap().id, Some(id()));
}

#[test]
fn the_watermark_has_a_psnr_above_50_db() {
    let noise = |i: usize| (blake3::hash(&i.to_le_bytes()).as_bytes()[0]) / 4 + 90;
    let pictures = [picture(0), vec![128; WIDTH * HEIGHT], (0..WIDTH * HEIGHT).map(noise).collect()];
    for before in pictures {
        let mut after = before.clone();
        embed(&mut after, 1.0, 0, at(0));
        let change: Vec<_> = before.iter().zip(&after).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        let psnr = 20.0 * (255.0 / rms(&change)).log10();
        assert!((50.0..56.0).contains(&psnr), "{psnr} dB");
    }
}

#[test]
fn flat_areas_change_by_one_step_at_most_and_by_nothing_on_average_over_a_second() {
    let frames: Vec<_> = (0..16).map(|t| changes(128, 1.0, 0, at(t))).collect();
    assert!(frames.iter().flatten().all(|change| change.abs() <= 1.0));
    // 0.42 steps, and the error of rounding to whole steps.
    assert!((0.5..0.8).contains(&rms(&frames[0])), "{}", rms(&frames[0]));
    // Both halves of a period have the watermark, with opposite signs.
    assert!(rms(&mean(&frames[..8])) > 0.2, "{}", rms(&mean(&frames[..8])));
    assert!(rms(&mean(&frames)) < 0.15, "{}", rms(&mean(&frames)));
}

#[test]
fn the_strength_multiplies_the_watermark() {
    // The mean over times with the same angle is without the error of rounding, which differs between frames.
    let level = |strength| {
        rms(&mean(&(0..32).map(|t| changes(128, strength, 0, Duration::from_secs(t))).collect::<Vec<_>>()))
    };
    let (half, whole, double) = (level(0.5), level(1.0), level(2.0));
    assert!(half < 0.65 * whole && double > 1.6 * whole, "{half} {whole} {double}");
    assert_eq!(level(9.0), double, "limited");
}

#[test]
fn fine_detail_gets_a_stronger_watermark_but_not_beside_a_flat_area() {
    // Noise on the right half.
    let noise = |i: usize| {
        if i % WIDTH < WIDTH / 2 { 128 } else { 110 + blake3::hash(&i.to_le_bytes()).as_bytes()[0] / 8 }
    };
    let before: Vec<u8> = (0..WIDTH * HEIGHT).map(noise).collect();
    let mut after = before.clone();
    embed(&mut after, 1.0, 0, at(0));
    let part = |from: usize, to: usize| {
        let inside = (0..WIDTH * HEIGHT).filter(|i| (from..to).contains(&(i % WIDTH)));
        rms(&inside.map(|i| f64::from(after[i]) - f64::from(before[i])).collect::<Vec<_>>())
    };
    let (flat, edge, busy) = (part(0, 144), part(152, 168), part(184, WIDTH));
    assert!(busy > 1.3 * flat, "{busy} {flat}");
    assert!(edge < 0.5 * (flat + busy), "{edge} {flat} {busy}");
}

#[test]
fn the_mean_of_many_shots_does_not_reveal_the_pattern() {
    // At these times the pattern has the same angle.
    let shots: Vec<_> = (0..64).map(|shot| changes(128, 2.0, shot, Duration::from_secs(shot))).collect();
    let same: Vec<_> = (0..64).map(|time| changes(128, 2.0, 0, Duration::from_secs(time))).collect();
    // The mean of 64 independent patterns has an eighth of the strength.
    let (shots, same) = (rms(&mean(&shots)), rms(&mean(&same)));
    assert!(shots < same / 5.0, "{shots} of {same}");
}

#[test]
fn the_chips_of_a_pattern_oscillate_once_per_second() {
    assert!((pattern::turn(at(4)) - Complex32::i()).norm() < 1e-6);
    assert!((pattern::turn(at(16 * 3600 + 8)) + 1.0).norm() < 1e-5);
}

#[test]
fn rgb_samples_change_like_luma_and_alpha_is_unchanged() {
    let grey = picture(0);
    let mut luma = grey.clone();
    let mut rgb: Vec<u8> = grey.iter().flat_map(|&y| [y, y, y]).collect();
    let mut rgba: Vec<u8> = grey.iter().flat_map(|&y| [y, y, y, 77]).collect();
    let embedder = Embedder::new(&WatermarkKey::public(), id(), 1.0);
    embedder.embed(&mut plane(&mut luma, 1), 0, at(5));
    embedder.embed(&mut plane(&mut rgb, 3), 0, at(5));
    embedder.embed(&mut plane(&mut rgba, 4), 0, at(5));
    assert!(luma != grey && rgb == luma.iter().flat_map(|&y| [y, y, y]).collect::<Vec<_>>());
    assert!(rgba == luma.iter().flat_map(|&y| [y, y, y, 77]).collect::<Vec<_>>());
}

#[test]
fn planes_with_invalid_sizes_are_unchanged() {
    let embedder = Embedder::new(&WatermarkKey::public(), id(), 1.0);
    for (length, stride, step, width, height) in
        [(0, 0, 1, 0, 0), (100, 320, 1, 320, 192), (9, 3, 1, 3, 3), (64, 4, 3, 8, 8), (64, 8, 2, 8, 8)]
    {
        let mut data = vec![9; length];
        embedder.embed(&mut Plane { data: &mut data, stride, step, width, height }, 0, at(1));
        assert_eq!(data, vec![9; length]);
        let mut detector = Detector::new(&WatermarkKey::public());
        detector.push(&data, stride, width, height, at(1));
        let _ = detector.detect();
    }
}

#[test]
fn a_short_key_is_an_error_and_debug_output_hides_the_key() {
    assert!(WatermarkKey::from_bytes(b"too short").unwrap_err().to_string().contains("16"));
    assert_eq!(format!("{:?}", WatermarkKey::public()), "WatermarkKey(…)");
}
