//! `bulkhead wipe` on a real kernel: mounts in a mount namespace of the test's own, a
//! process in a cgroup of its own. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        // Unique on this host: other tests run at the same time.
        format!("{:0>63}{digit}", format!("{:x}", std::process::id()))
    }

    fn bulkhead(dir: &Path, words: &str) -> String {
        let (program, at) = (env!("CARGO_BIN_EXE_bulkhead"), dir.display());
        format!(
            "{program} {words} --root {at}/root --state {at}/state --config {at}/config.yaml --config-dir {at}/config.d"
        )
    }

    /// Runs a shell script in a private mount namespace.
    fn run(script: &str) -> Output {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", script])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn make(dir: &Path) {
        for made in [
            format!("state/containers/{}", id('c')),
            format!("state/pods/{}/shm", id('a')),
            format!("state/ns/{}", id('a')),
            "root/layers/x/y".to_owned(),
            "config.d".to_owned(),
        ] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        let config = format!("cgroup_root: bulkhead-wipe-{}\n", std::process::id());
        fs::write(dir.join("config.yaml"), config).unwrap();
        for file in ["root/daemon.lock", "root/bulkhead.db", "state/daemon.lock"] {
            fs::write(dir.join(file), "").unwrap();
        }
    }

    /// All hierarchies of this host: a container is in each of them.
    fn hierarchies() -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let inner = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
        inner
            .chain([top.to_owned()])
            .filter(|dir| dir.join("cgroup.procs").is_file())
            .collect()
    }

    /// Puts `pid` into the cgroup `path` of each hierarchy of ours. A cpuset of v1 takes nobody before it has cpus.
    fn join(path: &str, pid: u32) {
        for top in hierarchies()
            .iter()
            .filter(|top| !["cpuset", "systemd"].iter().any(|name| top.ends_with(name)))
        {
            fs::create_dir_all(top.join(path)).unwrap();
            fs::write(top.join(path).join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    #[test]
    fn mounts_processes_cgroups_and_files_go_and_a_second_run_finds_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        make(dir);
        let parent = format!("wipe-test-{}", std::process::id());
        let mut process = Command::new("sleep")
            .arg("100")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        join(&format!("{parent}/{}", id('c')), process.id());
        // Reaped when it dies: as a zombie it would stay in its cgroup.
        let reaper = std::thread::spawn(move || process.wait().unwrap());

        let mount = format!("mount -t tmpfs none {}/state/pods/{}/shm; ", dir.display(), id('a'));
        let dry = run(&format!("{mount}{}", bulkhead(dir, "wipe --dry-run")));
        let text = String::from_utf8(dry.stdout).unwrap();
        assert!(dry.status.success() && text.contains("would unmount"), "{text}");
        assert!(text.contains(&format!("{} and remove it", id('c'))), "{text}");
        assert!(dir.join("root/bulkhead.db").exists());
        assert!(!reaper.is_finished());

        let wiped = run(&format!(
            "{mount}{}; grep {} /proc/self/mountinfo && exit 9 || true",
            bulkhead(dir, "wipe"),
            dir.display()
        ));
        let text = String::from_utf8_lossy(&wiped.stdout).into_owned();
        assert!(
            wiped.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&wiped.stderr)
        );
        assert!(!reaper.join().unwrap().success());
        for top in hierarchies() {
            assert!(!top.join(&parent).join(id('c')).exists());
            if top.join(&parent).exists() {
                fs::remove_dir(top.join(&parent)).unwrap();
            }
        }
        for left in ["root", "state"] {
            let names: Vec<_> = fs::read_dir(dir.join(left)).unwrap().collect();
            assert!(names.is_empty(), "{left}: {names:?}");
        }
        let again = run(&bulkhead(dir, "wipe"));
        assert!(
            String::from_utf8(again.stdout)
                .unwrap()
                .starts_with("nothing to remove")
        );
    }

    #[test]
    fn while_a_daemon_holds_the_lock_nothing_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        make(dir);
        let held = run(&format!(
            "flock {0}/state/daemon.lock {1}",
            dir.display(),
            bulkhead(dir, "wipe")
        ));
        let text = String::from_utf8(held.stderr).unwrap();
        assert!(!held.status.success() && text.contains("stop it first"), "{text}");
        assert!(dir.join("root/bulkhead.db").exists());
    }
}
