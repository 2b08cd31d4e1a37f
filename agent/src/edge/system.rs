//! The machine's figures: processors and memory by sysinfo, disk space by `statvfs`. No processes, no device lists.

use std::path::PathBuf;

use sysinfo::{MemoryRefreshKind, System};

use crate::node::sample::MachineSample;

/// Takes a [`MachineSample`] in some tens of microseconds; meant for once a second. (sysinfo takes no new figure of the
/// processors within 200 ms of the last.)
pub struct MachineSampler {
    system: Option<System>,
    recording_dir: Option<PathBuf>,
    /// The use of the processors is a difference between two looks, so the first one yields none.
    looked_before: bool,
}

impl MachineSampler {
    /// `recording_dir` need not exist yet: the disk that it would be on counts. It should be a local one, since asking
    /// a network file system whose server is gone can block.
    #[must_use]
    pub fn new(recording_dir: Option<PathBuf>) -> Self {
        let system =
            System::new().inspect_err(|error| tracing::warn!(%error, "the machine's figures are unknown here")).ok();
        Self { system, recording_dir, looked_before: false }
    }

    /// What cannot be read is `None`.
    pub fn sample(&mut self) -> MachineSample {
        let (cpu, memory) = match &mut self.system {
            Some(system) => {
                system.refresh_cpu_usage();
                system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
                (processors_in_use(system).filter(|_| self.looked_before), memory_in_use(system))
            }
            None => (None, None),
        };
        self.looked_before = true;
        MachineSample { cpu, memory, disk_free: self.disk_free() }
    }

    /// sysinfo's list of disks would do, but knows no tmpfs, and a directory's own file system is found more surely by
    /// asking for it.
    fn disk_free(&self) -> Option<u64> {
        let space = self.recording_dir.as_ref()?.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
        // What is free for ordinary users; the rest is root's reserve.
        Some(space.f_frsize.saturating_mul(space.f_bavail))
    }
}

fn processors_in_use(system: &System) -> Option<f32> {
    let share = system.global_cpu_usage() / 100.0;
    // Without /proc there are no processors, and sysinfo says 0 % of them.
    (!system.cpus().is_empty() && share.is_finite()).then(|| share.clamp(0.0, 1.0))
}

fn memory_in_use(system: &System) -> Option<f32> {
    let total = system.total_memory();
    let used = total.saturating_sub(system.available_memory());
    (total > 0).then(|| (used as f64 / total as f64) as f32)
}

impl std::fmt::Debug for MachineSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineSampler").field("recording_dir", &self.recording_dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_knows_no_processor_use_and_everything_else() {
        let mut sampler = MachineSampler::new(Some("/".into()));
        let first = sampler.sample();
        assert_eq!(first.cpu, None);
        assert!(first.memory.is_some_and(|share| share > 0.0 && share < 1.0), "{first:?}");
        assert!(first.disk_free.is_some());
        let second = sampler.sample();
        assert!(second.cpu.is_some_and(|share| (0.0..=1.0).contains(&share)), "{second:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_on_its_parents_disk() {
        let dir = tempfile::tempdir().unwrap();
        let free_at = |path: PathBuf| MachineSampler::new(Some(path)).sample().disk_free.unwrap();
        let parent = free_at(dir.path().into());
        let child = free_at(dir.path().join("not/yet"));
        // Others write to this disk meanwhile.
        assert!(parent.abs_diff(child) < (1 << 30), "{parent} {child}");
    }

    #[test]
    fn without_a_recording_directory_the_disk_is_unknown() {
        assert_eq!(MachineSampler::new(None).sample().disk_free, None);
    }
}
