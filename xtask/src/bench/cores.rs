//! Who runs on which cores.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of a bench: the last one is the driver's, the others are the server's. With one core they share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    ours: CpuSet,
    server: CpuSet,
    driver: CpuSet,
}

impl Cores {
    /// Divides the cores that this process may use.
    ///
    /// # Errors
    /// When the system does not say which.
    pub(crate) fn divide() -> io::Result<Self> {
        let ours = sched_getaffinity(None)?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core)).collect();
        let (server, driver) = split(&all);
        Ok(Self { ours, server: set(server), driver: set(driver) })
    }

    /// Starts something that inherits the server's cores.
    ///
    /// # Errors
    /// What `start` says, or when the system does not let us choose.
    pub(crate) fn on_server_cores<T>(&self, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.on(&self.server, start)
    }

    /// Starts something that inherits the driver's core.
    ///
    /// # Errors
    /// What `start` says, or when the system does not let us choose.
    pub(crate) fn on_driver_cores<T>(&self, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.on(&self.driver, start)
    }

    fn on<T>(&self, cores: &CpuSet, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        sched_setaffinity(None, cores)?;
        let started = start();
        sched_setaffinity(None, &self.ours)?;
        started
    }

    /// Whether the driver can use its core as it likes.
    pub(crate) fn driver_is_alone(&self) -> bool {
        (0..CpuSet::MAX_CPU).all(|core| !(self.driver.is_set(core) && self.server.is_set(core)))
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let place = if self.driver_is_alone() { "one of its own" } else { "the same" };
        format!("server on {} core(s), driver on {place}", self.server.count())
    }

    /// How the driver waits for answers that nobody else on its core has to make, in words.
    pub(crate) fn describe_waiting(&self) -> &'static str {
        if self.driver_is_alone() { "never sleeps" } else { "sleeps while it waits" }
    }
}

fn split(all: &[usize]) -> (&[usize], &[usize]) {
    match all {
        [] | [_] => (all, all),
        _ => all.split_at(all.len() - 1),
    }
}

fn set(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_the_driver_is_alone() {
        let of = |server: &[usize], driver: &[usize]| Cores {
            ours: CpuSet::new(),
            server: set(server),
            driver: set(driver),
        };
        assert!(of(&[0, 2], &[1]).driver_is_alone());
        assert!(!of(&[0], &[0]).driver_is_alone());
    }

    #[test]
    fn the_driver_has_a_core_of_its_own_where_there_are_two() {
        assert_eq!(split(&[3]), (&[3][..], &[3][..]));
        assert_eq!(split(&[0, 2]), (&[0][..], &[2][..]));
        assert_eq!(split(&[0, 1, 2, 5]), (&[0, 1, 2][..], &[5][..]));
    }
}
