//! The mark through what videos go through.

use super::*;

/// A picture with coarse and fine things in it, moving: `[H, W]`.
fn picture(width: usize, height: usize, time: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = ((x + 3 * time) as f32, y as f32);
            let hills = 40.0 * (u / 37.0).sin() * (v / 23.0).cos() + 20.0 * ((u + 2.0 * v) / 9.0).sin();
            let grain = ((x + 3 * time) * 7919 + y * 104_729) % 97;
            out.push((128.0 + hills + grain as f32 / 8.0) as u8);
        }
    }
    out
}

fn plane(data: &mut [u8], width: usize, height: usize) -> Plane<'_> {
    Plane { data, stride: width, step: 1, width, height }
}

#[test]
fn what_is_marked_is_read() {
    let id = GenerationId::new(0xab_cdef_0123);
    let key = Key::public();
    let marker = Marker::new(&key, id);
    let mut detector = Detector::new(&key);
    for t in 0..8 {
        let mut data = picture(320, 192, t);
        marker.mark(&mut plane(&mut data, 320, 192), 3);
        detector.push(&data, 320, 320, 192);
    }
    let finding = detector.finding().unwrap();
    assert_eq!((finding.id, finding.frames), (Some(id), 8), "{finding:?}");
}
