//! The built-in model.

use crate::support::samples;

/// Mean red, green and blue of the first frame.
fn colours(request: &str) -> [f64; 3] {
    let made = samples(&format!("soragen duration=1 {request} ! video/x-raw,format=RGB"));
    assert_eq!(made.len(), 1);
    let map = made[0].buffer().unwrap().map_readable().unwrap();
    let pixels = map.chunks_exact(3);
    let count = pixels.len() as f64;
    [0, 1, 2].map(|c| pixels.clone().map(|pixel| f64::from(pixel[c])).sum::<f64>() / count)
}

#[test]
fn the_place_in_the_prompt_sets_the_colours() {
    let [red, _, blue] = colours("prompt=\"a cat walks in the desert\"");
    assert!(red > blue + 40.0, "sand and an orange sky: {red} {blue}");
    let [red, _, blue] = colours("prompt=\"a fish swims under water\"");
    assert!(blue > red + 40.0, "water: {red} {blue}");
    let dark = colours("prompt=\"a rocket flies in outer space\"");
    assert!(dark.iter().all(|&c| c < 80.0), "space: {dark:?}");
}

#[test]
fn a_video_starts_with_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("red.png");
    image::RgbImage::from_pixel(640, 384, image::Rgb([200, 40, 40])).save(&picture).unwrap();
    let [red, green, blue] =
        colours(&format!("prompt=\"a fish swims under water\" image=\"{}\"", picture.display()));
    assert!((red - 200.0).abs() < 20.0 && (green - 40.0).abs() < 20.0 && (blue - 40.0).abs() < 20.0);
}

#[test]
fn frames_are_streamed_before_the_video_is_complete() {
    // Generating a whole hour would take hours.
    let made =
        samples("soragen prompt=\"snow\" steps=1 guidance-scale=1 duration=3600000000000 num-buffers=9");
    assert_eq!(made.len(), 9);
    assert_eq!(made[8].buffer().unwrap().pts().unwrap().mseconds(), 500);
}
