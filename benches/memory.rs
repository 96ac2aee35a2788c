//! Memory of this process.

/// Bytes that the system gives under `name`: `VmRSS`, what is in memory, or `VmHWM`, the most there was; `None` where there is
/// no `/proc`.
pub fn memory(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
