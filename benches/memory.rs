//! Memory use of the process.

/// The value of `name` in `/proc/self/status`, in bytes: `VmRSS` is the resident memory, `VmHWM` its peak. `None` without
/// `/proc`.
pub fn memory(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
