//! What a process has used of the processors.

use std::path::PathBuf;

/// Place of `utime` and `stime` behind the closing parenthesis of the name, which is field 2. Source: proc(5).
const USER_FIELD: usize = 14 - 3;
const KERNEL_FIELD: usize = 15 - 3;

/// Reads the CPU time of one process, all its threads together, those that have ended included.
#[derive(Debug)]
pub(super) struct CpuClock {
    path: PathBuf,
}

/// Why the CPU time of a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CpuTimeError {
    /// There is no such file, so perhaps no such process.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not look as expected.
    #[error("{} holds no CPU times", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl CpuClock {
    pub(super) fn of(process: u32) -> Self {
        Self { path: format!("/proc/{process}/stat").into() }
    }

    /// Seconds of user and kernel time so far, in steps of the system's clock tick (usually 10 ms).
    pub(super) fn read(&self) -> Result<f64, CpuTimeError> {
        let path = || self.path.clone();
        let text = std::fs::read_to_string(&self.path)
            .map_err(|source| CpuTimeError::Read { path: path(), source })?;
        let ticks = ticks(&text).ok_or_else(|| CpuTimeError::Malformed { path: path() })?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// The sum of user and kernel time in a line of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The name may hold spaces and parentheses; no field behind it does.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let user: u64 = fields.nth(USER_FIELD)?.parse().ok()?;
    let kernel: u64 = fields.nth(KERNEL_FIELD - USER_FIELD - 1)?.parse().ok()?;
    user.checked_add(kernel)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 120 34 5 6 20 0 1 0 99 0 0";
        assert_eq!(ticks(line), Some(154));
        assert_eq!(ticks("7 (a) S 1 7"), None);
        assert_eq!(ticks("nothing"), None);
    }

    #[test]
    fn work_takes_time() {
        let clock = CpuClock::of(std::process::id());
        let before = clock.read().unwrap();
        // At least a few ticks, on any machine.
        while clock.read().unwrap() - before < 0.03 {
            (0..100_000_u64).for_each(|number| {
                black_box(number);
            });
        }
        assert!(matches!(CpuClock::of(u32::MAX).read(), Err(CpuTimeError::Read { .. })));
    }
}
