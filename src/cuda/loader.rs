//! The CUDA libraries, opened when a GPU is.
//!
//! candle links them when it is built, and a program that needs a library that is not there does not start. So this file defines
//! the functions itself: each jumps to an address in a table. [`load`] opens the libraries and fills the table. Until then, and where there
//! is none, every function returns the error that there is no device. The symbols are hidden: nothing outside this library sees them.
//!
//! `build.rs` gives the linker empty libraries in place of those that candle asks for.
#![allow(unsafe_code, reason = "opens libraries, and writes addresses of functions")]

use std::arch::global_asm;
use std::ffi::c_void;
use std::sync::LazyLock;

use libloading::Library;

/// A library, by the names of its versions, the newest first, and the functions that candle calls.
struct Functions {
    names: &'static [&'static str],
    functions: &'static [&'static str],
}

/// Opens the libraries, once per process.
///
/// # Errors
/// The name of a library that is missing.
pub(super) fn load() -> Result<(), &'static str> {
    static LOADED: LazyLock<Result<(), &'static str>> = LazyLock::new(|| {
        let mut slot = &raw mut soragen_cuda_table;
        for Functions { names, functions } in LIBRARIES {
            // SAFETY: these libraries may run code when they are opened, as they would if they were linked.
            let found = names.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
            let Some(library) = found else { return Err(names[0]) };
            for name in *functions {
                // SAFETY: the table has a slot for each name, in this order, and nothing calls the functions before the libraries are open.
                unsafe {
                    if let Ok(function) = library.get::<*mut c_void>(name.as_bytes()) {
                        slot.write(*function);
                    }
                    slot = slot.add(1);
                }
            }
            // For as long as the process runs.
            std::mem::forget(library);
        }
        Ok(())
    });
    *LOADED
}

unsafe extern "C" {
    static mut soragen_cuda_table: *mut c_void;
}

// What every function is before the libraries are open: CUDA_ERROR_NO_DEVICE.
#[cfg(target_arch = "x86_64")]
global_asm!(".pushsection .text", "soragen_cuda_missing:", "mov eax, 100", "ret", ".popsection");
#[cfg(target_arch = "aarch64")]
global_asm!(".pushsection .text", "soragen_cuda_missing:", "mov w0, #100", "ret", ".popsection");

/// A function that jumps to the address in its slot, which is the next one in the table.
macro_rules! function {
    ($name:literal, $jump:expr) => {
        concat!(
            ".pushsection .text\n.globl ",
            $name,
            "\n.hidden ",
            $name,
            "\n.type ",
            $name,
            ", @function\n",
            $name,
            ":\n",
            $jump,
            "\n.popsection\n.pushsection .data.soragen_cuda, \"aw\"\n.Lslot_",
            $name,
            ":\n.quad soragen_cuda_missing\n.popsection\n"
        )
    };
}

macro_rules! libraries {
    ($([$($file:literal),*]: $($name:literal)*;)*) => {
        const LIBRARIES: &[Functions] =
            &[$(Functions { names: &[$($file),*], functions: &[$($name),*] }),*];
        global_asm!(
            ".pushsection .data.soragen_cuda, \"aw\"\n.balign 8\n.globl soragen_cuda_table\n.hidden soragen_cuda_table\nsoragen_cuda_table:\n.popsection"
        );
        #[cfg(target_arch = "x86_64")]
        global_asm!($($(function!($name, concat!("jmp [rip + .Lslot_", $name, "]"))),*),*);
        #[cfg(target_arch = "aarch64")]
        global_asm!($($(function!(
            $name,
            concat!("adrp x16, .Lslot_", $name, "\nldr x16, [x16, :lo12:.Lslot_", $name, "]\nbr x16")
        )),*),*);
    };
}

include!("functions.rs");
