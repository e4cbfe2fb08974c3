//! Capabilities, seccomp, masks, privileges.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::security;
use e2e::{Bed, container, test};
use proto::cri as v1;

/// The five sets, as `/proc/self/status` shows them.
async fn sets(bed: &Bed, name: &str, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Result<[u64; 5]> {
    let mut config = container(name, BUSYBOX, &["grep", "^Cap", "/proc/self/status"]);
    change(security(&mut config));
    let output = bed.output_of(&config).await?;
    let get = |key: &str| -> Result<u64> {
        let value = output
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .ok_or_else(|| anyhow::anyhow!("no {key} in {output}"))?;
        Ok(u64::from_str_radix(value.trim(), 16)?)
    };
    Ok([
        get("CapInh:")?,
        get("CapPrm:")?,
        get("CapEff:")?,
        get("CapBnd:")?,
        get("CapAmb:")?,
    ])
}

const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_TIME: u64 = 1 << 25;

fn capabilities(add: &[&str], drop: &[&str], ambient: &[&str]) -> Option<v1::Capability> {
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
    Some(v1::Capability {
        add_capabilities: names(add),
        drop_capabilities: names(drop),
        add_ambient_capabilities: names(ambient),
    })
}

#[test]
fn e7_capabilities_all_five_sets() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let [inherited, permitted, effective, bounding, ambient] = sets(&bed, "default", |_| {}).await?;
        ensure!(
            permitted == effective && bounding == permitted && permitted & CHOWN != 0 && permitted & NET_ADMIN == 0,
            "default {permitted:x}"
        );
        ensure!(
            ambient == 0 && inherited == 0,
            "ambient {ambient:x}, inheritable {inherited:x} (CVE-2022-24769)"
        );
        // containerd wants the names without prefix.
        let (add, drop) = if node.ours() {
            ("CAP_SYS_CHROOT", "CAP_CHOWN")
        } else {
            ("SYS_CHROOT", "CHOWN")
        };
        let [_, added, ..] = sets(&bed, "added", |context| {
            context.capabilities = capabilities(&["NET_ADMIN", add], &[drop], &[])
        })
        .await?;
        ensure!(added & NET_ADMIN != 0 && added & CHOWN == 0, "added {added:x}");
        let [_, none, _, bounding, _] = sets(&bed, "none", |context| {
            context.capabilities = capabilities(&[], &["ALL"], &[])
        })
        .await?;
        ensure!(none == 0 && bounding == 0, "none {none:x} {bounding:x}");
        let [_, one, ..] = sets(&bed, "one", |context| {
            context.capabilities = capabilities(&["CHOWN"], &["ALL"], &[])
        })
        .await?;
        ensure!(one == CHOWN, "one {one:x}");
        Ok(())
    });
}

#[test]
fn e7_ambient_capabilities_reach_a_user_who_is_not_root() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let [inherited, permitted, effective, _, ambient] = sets(&bed, "user", |context| {
            context.run_as_user = Some(v1::Int64Value { value: 1000 });
            context.capabilities = capabilities(&["NET_ADMIN"], &[], &["NET_ADMIN"]);
        })
        .await?;
        for (name, set) in [
            ("inheritable", inherited),
            ("permitted", permitted),
            ("effective", effective),
            ("ambient", ambient),
        ] {
            ensure!(set == NET_ADMIN, "{name} {set:x}");
        }
        let mut config = container("not-given", BUSYBOX, &["true"]);
        security(&mut config).capabilities = capabilities(&[], &[], &["NET_ADMIN"]);
        e2e::refused(
            bed.create(&config).await,
            tonic::Code::InvalidArgument,
            &["ambient", "NET_ADMIN"],
        )
    });
}

#[test]
fn e7_capabilities_of_another_user() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let [_, permitted, effective, bounding, _] = sets(&bed, "user", |context| {
            context.run_as_user = Some(v1::Int64Value { value: 1000 })
        })
        .await?;
        ensure!(
            permitted == 0 && effective == 0 && bounding != 0,
            "{permitted:x} {effective:x} {bounding:x}"
        );
        Ok(())
    });
}

#[test]
fn e7_privileged_has_everything_the_host_has() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| e2e::config::pod_security(config).privileged = true).await?;
        let [_, permitted, effective, ..] = sets(&bed, "caps", |context| {
            context.privileged = true;
            context.masked_paths.clear();
            context.readonly_paths.clear();
        })
        .await?;
        ensure!(
            permitted & NET_ADMIN != 0 && permitted & SYS_TIME != 0 && effective == permitted,
            "{permitted:x}"
        );
        let mut config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "test -c /dev/kmsg && echo kmsg; grep Seccomp: /proc/self/status; mount -t tmpfs t /tmp && echo mounted",
            ],
        );
        security(&mut config).privileged = true;
        let output = bed.output_of(&config).await?;
        ensure!(
            output.contains("kmsg") && output.contains("Seccomp:\t0") && output.contains("mounted"),
            "{output}"
        );
        Ok(())
    });
}

#[test]
fn e7_seccomp_runtime_default_and_unconfined() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let profile = |kind: v1::security_profile::ProfileType| {
            Some(v1::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: String::new(),
            })
        };
        let line = "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null && echo unshared; true";
        let mut config = container("default", BUSYBOX, &["sh", "-c", line]);
        security(&mut config).seccomp = profile(v1::security_profile::ProfileType::RuntimeDefault);
        let output = bed.output_of(&config).await?;
        ensure!(output == "Seccomp:\t2\n", "default: {output}");
        let mut config = container("unconfined", BUSYBOX, &["sh", "-c", line]);
        security(&mut config).seccomp = profile(v1::security_profile::ProfileType::Unconfined);
        let output = bed.output_of(&config).await?;
        ensure!(output.starts_with("Seccomp:\t0\n"), "unconfined: {output}");
        Ok(())
    });
}

#[test]
fn e7_seccomp_of_a_local_file() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let path = node.dir().join("profile.json");
        std::fs::write(
            &path,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#,
        )?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "mkdir /tmp/x 2>&1; true"]);
        security(&mut config).seccomp = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: path.to_string_lossy().into_owned(),
        });
        let output = bed.output_of(&config).await?;
        ensure!(output.contains("not supported"), "{output}");
        let mut config = container("missing", BUSYBOX, &["true"]);
        security(&mut config).seccomp = Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: "/no/such/profile.json".into(),
        });
        ensure!(
            bed.run(&config).await.is_err(),
            "a profile that is not there was accepted"
        );
        Ok(())
    });
}

#[test]
fn e7_no_new_privs() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (name, on) in [("on", true), ("off", false)] {
            let mut config = container(name, BUSYBOX, &["grep", "NoNewPrivs", "/proc/self/status"]);
            security(&mut config).no_new_privs = on;
            let output = bed.output_of(&config).await?;
            ensure!(output.trim().ends_with(if on { "1" } else { "0" }), "{name}: {output}");
        }
        Ok(())
    });
}

#[test]
fn e7_masked_and_read_only_paths() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "wc -c < /proc/timer_list; ls /proc/scsi 2>/dev/null | wc -l; echo 1 > /proc/sys/kernel/printk && echo WRITTEN; echo h > /proc/sysrq-trigger && echo WRITTEN; true";
        let output = bed
            .output_of(&container("default", BUSYBOX, &["sh", "-c", line]))
            .await?;
        ensure!(output == "0\n0\n", "masked: {output:?}");
        let mut config = container(
            "unmasked",
            BUSYBOX,
            &["sh", "-c", "grep -c ' /proc/' /proc/mounts; true"],
        );
        security(&mut config).masked_paths.clear();
        security(&mut config).readonly_paths.clear();
        let output = bed.output_of(&config).await?;
        ensure!(output == "0\n", "an empty list means none: {output:?}");
        Ok(())
    });
}

#[test]
fn the_monitors_descriptors_and_the_hosts_processes_are_not_seen() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let output = bed
            .output_of(&container(
                "main",
                BUSYBOX,
                &[
                    "sh",
                    "-c",
                    "ls /proc/self/fd | tr '\\n' ' '; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; true",
                ],
            ))
            .await?;
        // 0, 1, 2 and the directory itself; sh, ls and grep.
        ensure!(output.starts_with("0 1 2 3 ") && output.ends_with("sh\n"), "{output}");
        ensure!(
            output
                .split_whitespace()
                .nth(4)
                .is_some_and(|count| count.parse().is_ok_and(|count: u32| count <= 3)),
            "{output}"
        );
        Ok(())
    });
}
