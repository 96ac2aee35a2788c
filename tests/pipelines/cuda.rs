//! Frames that stay on the GPU. A driver whose GPU is the memory of the process (`fake_cuda/driver.c`) stands for NVIDIA's, so that the
//! real `libgstcuda` makes contexts, pools and mappings. It is found by its name, so such tests run in a process of their own.
#![allow(unsafe_code, reason = "calls the driver and libgstcuda")]

use std::ffi::{c_int, c_uint, c_void};
use std::path::Path;
use std::process::Command;

use gst::glib;
use gst::glib::translate::from_glib_full;
use gst::prelude::*;
use gst_video::prelude::*;
use libloading::Library;
use soragen::testing::{FakeGpu, set_gpu};
use soragen_tests::driver::compile;

use crate::support::{error, init, parse, samples, tiny};

const SIZE: &str = "width=48,height=32";
const ON_GPU: &str = "video/x-raw(memory:CUDAMemory),format=NV12";
/// The GPU that the child process shows to the element.
const GPU: FakeGpu = FakeGpu { handle: 1, device: 0, owns_host_memory: true };

/// The caps that the element offers once it runs.
fn offered(source: &str) -> gst::Caps {
    init();
    let source = gst::parse::bin_from_description(source, true).unwrap();
    source.set_state(gst::State::Paused).unwrap();
    let caps = source.static_pad("src").unwrap().query_caps(None);
    source.set_state(gst::State::Null).unwrap();
    caps
}

fn offers_gpu(source: &str) -> bool {
    offered(source).can_intersect(&ON_GPU.parse::<gst::Caps>().unwrap())
}

#[test]
fn frames_are_in_system_memory_without_a_gpu() {
    assert!(!offers_gpu(&tiny("t2v-unipc")));
    let error = error(&format!("{} ! {ON_GPU},{SIZE}", tiny("t2v-unipc")));
    assert!(
        error.matches(gst::CoreError::Negotiation) && error.message().contains("system memory"),
        "{error}"
    );
    // It takes both.
    let either = format!("capsfilter caps=\"{ON_GPU},{SIZE};video/x-raw,{SIZE}\"");
    let made = samples(&format!("{} duration=1 ! {either}", tiny("t2v-unipc")));
    assert!(made[0].caps().unwrap().features(0).unwrap().is_equal(&gst::CapsFeatures::new_empty()));
}

/// Runs the ignored test `name` of this file in a process that finds libraries in `folder` first.
fn run_child(name: &str, folder: &Path) {
    init();
    let plugins = folder.join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    for plugin in ["coreelements", "app", "nvcodec"] {
        let file = gst::Registry::get().find_plugin(plugin).and_then(|plugin| plugin.filename());
        let file = file.unwrap_or_else(|| panic!("{plugin}: scripts/setup.sh installs it"));
        std::os::unix::fs::symlink(&file, plugins.join(file.file_name().unwrap())).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("cuda::{name}"), "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .env("GST_REGISTRY", folder.join("registry"))
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", &plugins)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && text[0].contains("1 passed"), "{}{}", text[0], text[1]);
}

/// Compiles the driver into `folder`.
fn build_driver(folder: &Path) {
    let library = folder.join("libcuda.so.1");
    compile("pipelines/fake_cuda/driver.c", &library);
    std::fs::copy(&library, folder.join("libnvcuvid.so.1")).unwrap();
}

#[test]
fn frames_stay_on_a_gpu() {
    let folder = tempfile::tempdir().unwrap();
    build_driver(folder.path());
    run_child("in_a_process_with_a_gpu", folder.path());
}

#[test]
fn frames_are_in_system_memory_without_a_driver() {
    run_child("in_a_process_without_a_driver", tempfile::tempdir().unwrap().path());
}

#[test]
#[ignore = "runs in a process of its own"]
fn in_a_process_without_a_driver() {
    set_gpu(GPU);
    assert!(!offers_gpu(&tiny("t2v-unipc")));
    assert!(!samples(&format!("{} duration=1 ! video/x-raw,{SIZE}", tiny("t2v-unipc"))).is_empty());
}

#[test]
#[ignore = "runs in a process of its own"]
fn in_a_process_with_a_gpu() {
    init();
    let driver = Driver::open();
    let handle = driver.new_context() as usize;
    // First as frames of the GPU, then as frames of the CPU.
    for owns_host_memory in [true, false] {
        set_gpu(FakeGpu { handle, owns_host_memory, ..GPU });
        pictures_are_those_of_system_memory();
        label_and_watermark_are_within_one_step();
        seeks_and_other_rates_give_the_same_frames();
        another_context_gets_copies(&driver, handle);
    }
    a_live_source_with_a_watermark_is_in_system_memory();
    the_format_may_change_while_it_runs();
    elements_without_a_preference_get_system_memory();
    assert_eq!(driver.allocations(), 0);
}

/// Rows of luma and chroma, without padding.
fn rows(sample: &gst::Sample) -> Vec<u8> {
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let frame = gst_video::VideoFrame::from_buffer_readable(sample.buffer_owned().unwrap(), &info).unwrap();
    let (width, height) = (info.width() as usize, info.height() as usize);
    let plane = |plane: u32, rows: usize| {
        let stride = frame.plane_stride()[plane as usize] as usize;
        let data = frame.plane_data(plane).unwrap();
        (0..rows).flat_map(|y| data[y * stride..][..width].to_vec()).collect::<Vec<_>>()
    };
    [plane(0, height), plane(1, height / 2)].concat()
}

/// The pictures of `source` on the GPU, and in system memory.
fn both(source: &str, fields: &str) -> [Vec<Vec<u8>>; 2] {
    let gpu = samples(&format!("{source} ! {ON_GPU},{fields}"));
    for sample in &gpu {
        let buffer = sample.buffer().unwrap();
        assert!(buffer.n_memory() == 1 && buffer.peek_memory(0).is_type("gst.cuda.memory"));
        // Rows of the driver are longer than those of the frame.
        assert!(buffer.meta::<gst_video::VideoMeta>().unwrap().stride()[0] > 48);
    }
    let cpu = samples(&format!("{source} ! video/x-raw,format=NV12,{fields}"));
    [gpu, cpu].map(|samples| samples.iter().map(rows).collect())
}

fn pictures_are_those_of_system_memory() {
    assert!(offers_gpu(&tiny("t2v-unipc")));
    let source = format!("{} duration=500000000", tiny("t2v-unipc"));
    for colours in ["", ",colorimetry=bt709,chroma-site=cosited", ",colorimetry=1:4:5:1,chroma-site=jpeg"] {
        let [gpu, cpu] = both(&source, &format!("{SIZE}{colours}"));
        assert!(gpu.len() == 8 && gpu == cpu, "{colours}");
    }
    let downloaded = samples(&format!("{source} ! {ON_GPU},{SIZE} ! cudadownload ! video/x-raw"));
    let [gpu, _] = both(&source, SIZE);
    assert!(downloaded.iter().map(rows).eq(gpu), "downloaded");
}

fn label_and_watermark_are_within_one_step() {
    let source = tiny("t2v-unipc").replace("watermark=false", "watermark=true label=ai-generated");
    let [gpu, cpu] = both(&format!("{source} duration=500000000"), SIZE);
    let furthest = gpu.iter().flatten().zip(cpu.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(gpu.len() == cpu.len() && furthest <= Some(1), "{furthest:?}");
}

fn seeks_and_other_rates_give_the_same_frames() {
    let source = format!("{} duration=500000000", tiny("t2v-unipc"));
    let all: Vec<_> = samples(&format!("{source} ! {ON_GPU},{SIZE}")).iter().map(rows).collect();
    let twice = samples(&format!("{source} ! {ON_GPU},{SIZE},framerate=32/1"));
    assert!(twice.iter().map(rows).eq((0..16).map(|n| all[n / 2].clone())), "twice");

    let pipeline = parse(&format!("{source} ! {ON_GPU},{SIZE} ! appsink name=sink sync=false"));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    sink.pull_preroll().unwrap();
    let (flags, time) = (gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, gst::ClockTime::from_mseconds);
    pipeline.seek(-1.0, flags, gst::SeekType::Set, time(125), gst::SeekType::Set, time(375)).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let backwards: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert!(backwards.iter().map(rows).eq(all[2..6].iter().rev().cloned()), "backwards");
}

/// The context that the application sets is that of the buffers and of the answers to other elements.
fn another_context_gets_copies(driver: &Driver, own: usize) {
    let source = format!("{} name=source duration=250000000", tiny("t2v-unipc"));
    let [expected, _] = both(&source, SIZE);
    for given in [None, Some(driver.new_gst_context())] {
        let pipeline = parse(&format!("{source} ! {ON_GPU},{SIZE} ! appsink name=sink sync=false"));
        let element = pipeline.by_name("source").unwrap();
        if let Some(given) = &given {
            element.set_context(given);
        }
        let mut query = gst::query::Context::new("gst.cuda.context");
        assert!(element.static_pad("src").unwrap().query(&mut query));
        let answer = driver.handle_of(query.context().unwrap());
        let expected_handle = given.as_ref().map_or(own, |given| driver.handle_of(given));
        assert_eq!(answer, expected_handle);

        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let made: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
        assert!(made.iter().map(rows).eq(expected.iter().cloned()), "set: {}", given.is_some());
    }
}

fn a_live_source_with_a_watermark_is_in_system_memory() {
    let live = |watermark: bool| {
        tiny("t2v-unipc").replace("watermark=false", &format!("watermark={watermark} is-live=true"))
    };
    assert!(!offers_gpu(&live(true)) && offers_gpu(&live(false)));
    assert_eq!(samples(&format!("{} duration=250000000 ! {ON_GPU},{SIZE}", live(false))).len(), 4);
}

fn the_format_may_change_while_it_runs() {
    let source = format!("{} duration=500000000", tiny("t2v-unipc"));
    let pipeline =
        parse(&format!("{source} ! capsfilter name=filter ! appsink name=sink sync=false max-buffers=1"));
    let [filter, sink] = ["filter", "sink"].map(|name| pipeline.by_name(name).unwrap());
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    let set =
        |caps: &str| filter.set_property("caps", format!("{caps},{SIZE}").parse::<gst::Caps>().unwrap());
    set(ON_GPU);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut made: Vec<_> = sink.pull_sample().into_iter().collect();
    set("video/x-raw,format=NV12");
    made.extend(std::iter::from_fn(|| sink.pull_sample().ok()));
    let expected: Vec<_> =
        samples(&format!("{source} ! video/x-raw,format=NV12,{SIZE}")).iter().map(rows).collect();
    assert!(made.iter().map(rows).eq(expected));
    let on_gpu =
        |sample: &gst::Sample| sample.caps().unwrap().features(0).unwrap().contains("memory:CUDAMemory");
    assert!(on_gpu(&made[0]) && !on_gpu(made.last().unwrap()));
}

fn elements_without_a_preference_get_system_memory() {
    let source = format!("{} duration=1", tiny("t2v-unipc"));
    let features = |filter: &str| {
        let made = samples(&format!("{source} ! {filter}"));
        made[0].caps().unwrap().to_string()
    };
    assert!(features("identity").contains("I420"));
    let either = format!("capsfilter caps=\"video/x-raw,{SIZE};{ON_GPU},{SIZE}\"");
    assert!(features(&either).contains("CUDAMemory"));
}

/// The driver, and what the tests call of libgstcuda.
struct Driver {
    driver: Library,
    gstreamer: Library,
}

impl Driver {
    fn open() -> Self {
        // SAFETY: neither library does anything when it is opened.
        let open = |name: &str| unsafe { Library::new(name) }.unwrap();
        Self { driver: open("libcuda.so.1"), gstreamer: open("libgstcuda-1.0.so.0") }
    }

    /// Allocations on the GPU that were not freed.
    fn allocations(&self) -> c_int {
        // SAFETY: the function has this type.
        unsafe { self.driver.get::<unsafe extern "C" fn() -> c_int>(b"fake_allocations").unwrap()() }
    }

    /// A `CUcontext`.
    fn new_context(&self) -> *mut c_void {
        let mut context = std::ptr::null_mut();
        // SAFETY: the functions have these types.
        unsafe {
            let create = self
                .driver
                .get::<unsafe extern "C" fn(*mut *mut c_void, c_uint, c_int) -> c_int>(b"cuCtxCreate_v2");
            assert_eq!(create.unwrap()(&mut context, 0, 0), 0);
            let pop =
                self.driver.get::<unsafe extern "C" fn(*mut *mut c_void) -> c_int>(b"cuCtxPopCurrent_v2");
            assert_eq!(pop.unwrap()(std::ptr::null_mut()), 0);
        }
        context
    }

    /// As an application makes a context to share.
    fn new_gst_context(&self) -> gst::Context {
        // SAFETY: the functions have these types; the second one returns a new reference.
        unsafe {
            let load =
                self.gstreamer.get::<unsafe extern "C" fn() -> c_int>(b"gst_cuda_load_library").unwrap();
            assert_eq!(load(), glib::ffi::GTRUE);
            let new =
                self.gstreamer.get::<unsafe extern "C" fn(c_uint) -> *mut c_void>(b"gst_cuda_context_new");
            let context = new.unwrap()(0);
            assert!(!context.is_null());
            let wrap = b"gst_context_new_cuda_context";
            let wrap =
                self.gstreamer.get::<unsafe extern "C" fn(*mut c_void) -> *mut gst::ffi::GstContext>(wrap);
            from_glib_full(wrap.unwrap()(context))
        }
    }

    /// The `CUcontext` of a context that is shared.
    fn handle_of(&self, context: &gst::ContextRef) -> usize {
        let object = context.structure().get::<gst::Object>("gst.cuda.context").unwrap();
        // SAFETY: the function has this type, and the object is a `GstCudaContext`.
        unsafe {
            let handle = b"gst_cuda_context_get_handle";
            let handle =
                self.gstreamer.get::<unsafe extern "C" fn(*mut gst::ffi::GstObject) -> usize>(handle);
            handle.unwrap()(object.as_ptr())
        }
    }
}
