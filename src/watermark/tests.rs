//! The watermark after scaling, cropping and other changes.

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

fn marked(time: usize, shot: u64) -> Vec<u8> {
    let mut data = picture(time);
    Embedder::new(&WatermarkKey::public(), id()).embed(&mut plane(&mut data, 1), shot);
    data
}

/// The detection in pictures of one size.
fn find(
    key: &WatermarkKey,
    pictures: impl IntoIterator<Item = Vec<u8>>,
    width: usize,
    height: usize,
) -> Detection {
    let mut detector = Detector::new(key);
    for picture in pictures {
        detector.push(&picture, width, width, height);
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
fn one_picture_is_enough_for_a_detection() {
    for frames in [1, 8] {
        let detection = find(&WatermarkKey::public(), (0..frames).map(|t| marked(t, 3)), WIDTH, HEIGHT);
        assert_eq!((detection.id, detection.frames), (Some(id()), frames as u64), "{detection:?}");
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
        let pictures = (0..8).map(|t| resized(&marked(t, 0), cut, scale, width, height));
        let detection = find(&WatermarkKey::public(), pictures, width, height);
        assert_eq!(detection.id, Some(id()), "{scale}: {detection:?}");
        assert!((detection.scale - f64::from(scale)).abs() < 0.02, "{detection:?}");
    }
}

#[test]
fn the_watermark_is_detected_after_upscaling_to_high_definition() {
    let pictures = (0..4).map(|t| resized(&marked(t, 0), (0, 12), 4.0, 1280, 720));
    let detection = find(&WatermarkKey::public(), pictures, 1280, 720);
    assert_eq!(detection.id, Some(id()), "{detection:?}");
    assert!((detection.scale - 4.0).abs() < 0.05, "{detection:?}");
}

#[test]
fn the_watermark_is_detected_after_a_change_of_brightness_and_contrast() {
    for (contrast, brightness) in [(0.5, 60.0), (1.5, -80.0)] {
        let change = |sample: u8| (f32::from(sample) * contrast + brightness) as u8;
        let pictures = (0..8).map(|t| marked(t, 0).into_iter().map(change).collect());
        assert_eq!(find(&WatermarkKey::public(), pictures, WIDTH, HEIGHT).id, Some(id()));
    }
}

#[test]
fn nothing_is_detected_without_a_watermark_or_with_another_key() {
    let none = find(&WatermarkKey::public(), (0..8).map(picture), WIDTH, HEIGHT);
    assert!(!none.is_marked(), "{none:?}");
    for key in 0..6u8 {
        let key = WatermarkKey::from_bytes(&[key; 16]).unwrap();
        let other = find(&key, (0..8).map(|t| marked(t, 0)), WIDTH, HEIGHT);
        assert!(!other.is_marked(), "{other:?}");
    }
    assert_eq!(Detector::new(&WatermarkKey::public()).detect(), None);
}

#[test]
fn a_change_of_size_discards_the_earlier_pictures() {
    let large = resized(&marked(0, 0), (0, 12), 4.0, 1280, 720);
    let mut detector = Detector::new(&WatermarkKey::public());
    detector.push(&large, 1280, 1280, 720);
    assert_eq!(detector.detect().unwrap().id, Some(id()));
    for time in 0..8 {
        detector.push(&picture(time), WIDTH, WIDTH, HEIGHT);
    }
    let none = detector.detect().unwrap();
    assert!(!none.is_marked() && none.frames == 8, "{none:?}");
}

#[test]
fn the_first_pictures_are_enough_if_the_others_lost_the_watermark() {
    // Most pictures in the sum are busy and have no watermark.
    let grain = |i: usize| blake3::hash(&i.to_le_bytes()).as_bytes()[0] / 2;
    let busy = |time: usize| (0..WIDTH * HEIGHT).map(|i| 64 + grain(i + time % 3 * WIDTH * HEIGHT)).collect();
    let pictures = (0..4).map(|t| marked(t, 0)).chain((0..60).map(busy));
    let detection = find(&WatermarkKey::public(), pictures, WIDTH, HEIGHT);
    assert_eq!((detection.id, detection.frames), (Some(id()), 64), "{detection:?}");
}

#[test]
fn the_watermark_has_a_psnr_above_42_db() {
    let noise = |i: usize| (blake3::hash(&i.to_le_bytes()).as_bytes()[0]) / 4 + 90;
    let pictures = [
        picture(0),
        vec![128; WIDTH * HEIGHT],
        vec![0; WIDTH * HEIGHT],
        (0..WIDTH * HEIGHT).map(noise).collect(),
    ];
    for before in pictures {
        let mut after = before.clone();
        Embedder::new(&WatermarkKey::public(), id()).embed(&mut plane(&mut after, 1), 0);
        let change = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
        let error = before.iter().zip(&after).map(change).sum::<f64>() / before.len() as f64;
        let psnr = 10.0 * (255.0 * 255.0 / error).log10();
        assert!((42.0..52.0).contains(&psnr), "{psnr} dB");
    }
}

#[test]
fn flat_dark_areas_get_the_weakest_watermark() {
    let changes = |level: u8| {
        let mut data = vec![level; WIDTH * HEIGHT];
        Embedder::new(&WatermarkKey::public(), id()).embed(&mut plane(&mut data, 1), 0);
        data.into_iter().map(move |sample| u64::from(sample.abs_diff(level)))
    };
    assert_eq!(changes(30).max(), Some(1), "one step at most");
    let energy = |level| changes(level).map(|change| change * change).sum::<u64>();
    assert!(energy(30) > (WIDTH * HEIGHT / 2) as u64);
    assert!(energy(128) > energy(30) * 3 / 2);
}

#[test]
fn the_mean_of_many_shots_does_not_reveal_the_pattern() {
    let flat = |shot| {
        let mut data = vec![128; WIDTH * HEIGHT];
        Embedder::new(&WatermarkKey::public(), id()).embed(&mut plane(&mut data, 1), shot);
        data
    };
    let shots: Vec<_> = (0..64).map(flat).collect();
    assert_ne!(shots[0], shots[1]);
    let energy = |sum: &dyn Fn(usize) -> f64| (0..WIDTH * HEIGHT).map(|i| sum(i).powi(2)).sum::<f64>();
    let one = energy(&|i| f64::from(shots[0][i]) - 128.0);
    let mean = energy(&|i| shots.iter().map(|shot| f64::from(shot[i]) - 128.0).sum::<f64>() / 64.0);
    // The mean of 64 independent patterns has a 64th of the energy.
    assert!(mean < one / 30.0, "{mean} of {one}");
}

#[test]
fn rgb_samples_change_like_luma_and_alpha_is_unchanged() {
    let grey = picture(0);
    let mut luma = grey.clone();
    let mut rgb: Vec<u8> = grey.iter().flat_map(|&y| [y, y, y]).collect();
    let mut rgba: Vec<u8> = grey.iter().flat_map(|&y| [y, y, y, 77]).collect();
    let embedder = Embedder::new(&WatermarkKey::public(), id());
    embedder.embed(&mut plane(&mut luma, 1), 0);
    embedder.embed(&mut plane(&mut rgb, 3), 0);
    embedder.embed(&mut plane(&mut rgba, 4), 0);
    assert!(luma != grey && rgb == luma.iter().flat_map(|&y| [y, y, y]).collect::<Vec<_>>());
    assert!(rgba == luma.iter().flat_map(|&y| [y, y, y, 77]).collect::<Vec<_>>());
}

#[test]
fn planes_with_invalid_sizes_are_unchanged() {
    let embedder = Embedder::new(&WatermarkKey::public(), id());
    for (length, stride, step, width, height) in
        [(0, 0, 1, 0, 0), (100, 320, 1, 320, 192), (9, 3, 1, 3, 3), (64, 4, 3, 8, 8), (64, 8, 2, 8, 8)]
    {
        let mut data = vec![9; length];
        embedder.embed(&mut Plane { data: &mut data, stride, step, width, height }, 0);
        assert_eq!(data, vec![9; length]);
        let mut detector = Detector::new(&WatermarkKey::public());
        detector.push(&data, stride, width, height);
        let _ = detector.detect();
    }
}

#[test]
fn a_short_key_is_an_error_and_debug_output_hides_the_key() {
    assert!(WatermarkKey::from_bytes(b"too short").unwrap_err().to_string().contains("16"));
    assert_eq!(format!("{:?}", WatermarkKey::public()), "WatermarkKey(…)");
}
