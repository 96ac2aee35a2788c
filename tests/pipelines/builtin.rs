//! The built-in model.

use crate::support::{pictures, samples};

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

/// Shares of the pixels of the left and the right half of the first frame that are `like` this.
fn shares(request: &str, like: fn(&[u8]) -> bool) -> [f64; 2] {
    let source = format!("soragen duration=1 {request} ! video/x-raw,format=RGB,width=320,height=192");
    let frame = crate::support::pixels(&samples(&source)[0]);
    let mut counts = [0; 2];
    frame.chunks_exact(3).enumerate().filter(|(_, pixel)| like(pixel)).for_each(|(i, _)| {
        counts[usize::from(i % 320 >= 160)] += 1;
    });
    counts.map(|count| f64::from(count) / (160.0 * 192.0))
}

#[test]
fn a_drawing_is_shown_where_its_path_says() {
    let orange = |pixel: &[u8]| pixel[0] > 180 && pixel[1] < 150 && pixel[2] < 90;
    let fox = |path: &str| {
        shares(
            &format!("prompt=\"in a green meadow\" reference=bank:fox motion-path=\"0 {path} ground\""),
            orange,
        )
    };
    let [left, right] = fox("left");
    assert!(left > 0.05 && right < 0.01, "{left} {right}");
    let [left, right] = fox("right");
    assert!(right > 0.05 && left < 0.01, "{left} {right}");
}

#[test]
fn a_picture_of_the_user_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disc.png");
    let disc = image::RgbaImage::from_fn(200, 200, |x, y| {
        let inside = (x as i32 - 100).pow(2) + (y as i32 - 100).pow(2) < 90 * 90;
        image::Rgba([220, 30, 160, if inside { 255 } else { 0 }])
    });
    disc.save(&file).unwrap();
    let pink = |pixel: &[u8]| pixel[0] > 150 && pixel[1] < 110 && pixel[2] > 100;
    let both =
        shares(&format!("prompt=\"it stands in a green meadow\" reference=\"{}\"", file.display()), pink);
    // The disc has 128 pixels across, a fifth of the frame.
    assert!(both.iter().sum::<f64>() / 2.0 > 0.12, "{both:?}");
    let without = shares("prompt=\"a green meadow\"", pink);
    assert!(without.iter().sum::<f64>() < 0.01, "{without:?}");
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

#[test]
fn the_stronger_the_restyling_the_less_of_the_video_stays() {
    let source = "videotestsrc pattern=ball num-buffers=13 ! video/x-raw,format=RGB,width=320,height=192,framerate=16/1";
    let before = pictures(&samples(source));
    let psnr = |strength: &str| {
        let filter = format!(
            "sorafilter prompt=\"a red fox in the snow\" motion-noise=0 watermark=false strength={strength} ! video/x-raw,format=RGB"
        );
        let after = pictures(&samples(&format!("{source} ! {filter}")));
        assert_eq!(after.len(), before.len());
        let squares = before.iter().flatten().zip(after.iter().flatten());
        let sum: f64 = squares.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        10.0 * (255_f64.powi(2) * before.concat().len() as f64 / sum).log10()
    };
    let falling: Vec<_> = ["0", "0.6", "0.9", "0.97", "1"].iter().map(|strength| psnr(strength)).collect();
    assert!(falling.is_sorted_by(|a, b| a > b), "{falling:?}");
}
