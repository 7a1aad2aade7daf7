//! What the machine has that arithmetic depends on.

use std::fs;

use serde::Serialize;

/// Instructions for vectors and matrices, by their names in `/proc/cpuinfo`: those that kernels for models choose by.
const FEATURES: [&str; 16] = [
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
];

/// Beside what `Machine` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Hardware {
    pub(crate) features: Vec<String>,
    pub(crate) memory_bytes: u64,
}

impl Hardware {
    /// This machine's; empty where the system does not say.
    pub(crate) fn inspect() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::of(&read("/proc/cpuinfo"), &read("/proc/meminfo"))
    }

    fn of(cpuinfo: &str, meminfo: &str) -> Self {
        let line = cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
        let flags: Vec<&str> =
            line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags).split(' ').collect();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: Option<u64> = total.and_then(|total| total.trim().strip_suffix("kB")?.trim().parse().ok());
        Self {
            features: FEATURES.into_iter().filter(|name| flags.contains(name)).map(String::from).collect(),
            memory_bytes: kib.unwrap_or_default() * 1024,
        }
    }

    /// As a list in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        format!("* vector instructions: {}\n* memory: {gib:.1} GiB\n", self.features.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_whole_words() {
        let hardware = Hardware::of(
            "flags\t\t: fpu avx2 avx512_vnni avx512f_x\n",
            "MemTotal:  2097152 kB\nMemFree: 1 kB\n",
        );
        assert_eq!(hardware.features, ["avx2", "avx512_vnni"]);
        assert_eq!(hardware.markdown(), "* vector instructions: avx2, avx512_vnni\n* memory: 2.0 GiB\n");
        assert_eq!(Hardware::of("", ""), Hardware { features: Vec::new(), memory_bytes: 0 });
    }
}
