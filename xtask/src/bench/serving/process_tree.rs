//! A process and all that it has started, as the system shows them under `/proc`.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The process and its descendants, parents before children.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((process, parent(&stat)?))
        })
        .collect();
    descendants(root, &parents)
}

/// Sends a signal to the process and its descendants. Those that have ended meanwhile need none.
pub(crate) fn signal(root: u32, signal: Signal) {
    for process in tree(root) {
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, signal);
        }
    }
}

/// The sum over the processes of the most memory that each has had resident (`VmHWM`), in bytes. Pages that several
/// share count for each.
pub(crate) fn peak_resident_bytes(root: u32) -> u64 {
    let peak = |process: u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        high_water_mark_bytes(&status)
    };
    tree(root).into_iter().filter_map(peak).sum()
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    found
}

/// The parent in a line of `/proc/PID/stat`. Source: proc(5).
fn parent(stat: &str) -> Option<u32> {
    // The name may hold spaces and parentheses; no field behind it does.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn high_water_mark_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn descendants_of_descendants_count_and_others_do_not() {
        let parents = [(2, 1), (3, 2), (4, 1), (5, 3), (6, 4)];
        assert_eq!(descendants(2, &parents), [2, 3, 5]);
        assert_eq!(descendants(7, &parents), [7]);
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("7 (a) b (c)) S 12 7 7 0 -1"), Some(12));
        assert_eq!(parent("nothing"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(high_water_mark_bytes("VmPeak:\t 9 kB\nVmHWM:\t  1200 kB\n"), Some(1_228_800));
        assert_eq!(high_water_mark_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn a_child_and_its_child_are_found_and_ended() {
        let shell = ["-c", "sleep 1000 & echo; wait"];
        let mut child = Command::new("sh").args(shell).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        // It says a line once it has a child.
        output.read_exact(&mut [0]).unwrap();
        let found = tree(child.id());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(peak_resident_bytes(child.id()) > 0);
        signal(child.id(), Signal::KILL);
        // Its output ends when both have.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(!child.wait().unwrap().success());
    }
}
