//! E7: what the first process is given.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{resources, security};
use e2e::limits::Kernel;
use e2e::{Bed, Options, container, test, test_with};
use proto::cri as v1;

const USER: &str = "127.0.0.1:5000/busybox:user";

#[test]
fn e7_environment_image_first_then_cri_by_name() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(USER).await?;
        let mut config = container("main", USER, &["env"]);
        for (key, value) in [("FROM_IMAGE", "overridden"), ("NEW", "a=b c"), ("EMPTY", "")] {
            config.envs.push(v1::KeyValue {
                key: key.into(),
                value: value.into(),
            });
        }
        let output = bed.output_of(&config).await?;
        for line in [
            "PATH=/bin",
            "FROM_IMAGE=overridden",
            "NEW=a=b c",
            "EMPTY=",
            "HOME=/home/app",
            "HOSTNAME=pod",
        ] {
            ensure!(output.lines().any(|there| there == line), "{line} is not in\n{output}");
        }
        ensure!(output.matches("FROM_IMAGE=").count() == 1, "twice:\n{output}");
        ensure!(!output.contains("TERM="), "TERM without a terminal:\n{output}");
        Ok(())
    });
}

#[test]
fn e7_entrypoint_and_command() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(USER).await?;
        // Only args: the image's entrypoint and these.
        let mut config = container("args", USER, &[]);
        config.args = vec!["echo from args".into()];
        ensure!(bed.output_of(&config).await? == "from args\n", "only args");
        // A command: the image's entrypoint and Cmd do not count.
        let mut config = container("both", USER, &["echo"]);
        config.args = vec!["a".into(), "b c".into()];
        ensure!(bed.output_of(&config).await? == "a b c\n", "both");
        Ok(())
    });
}

#[test]
fn e7_path_and_home_have_defaults() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull("127.0.0.1:5000/busybox:empty").await?;
        let output = bed
            .output_of(&container("main", "127.0.0.1:5000/busybox:empty", &["env"]))
            .await?;
        ensure!(
            output
                .lines()
                .any(|line| line.starts_with("PATH=/usr/local/sbin:/usr/local/bin")),
            "{output}"
        );
        ensure!(output.lines().any(|line| line == "HOME=/root"), "{output}");
        Ok(())
    });
}

#[test]
fn e7_working_directory_of_cri_wins_and_is_made() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(USER).await?;
        ensure!(
            bed.output_of(&container("image", USER, &["pwd"])).await? == "/home/app\n",
            "of the image"
        );
        let mut config = container("cri", USER, &["pwd"]);
        config.working_dir = "/tmp".into();
        ensure!(bed.output_of(&config).await? == "/tmp\n", "of CRI");
        ensure!(
            bed.output_of(&container("none", BUSYBOX, &["pwd"])).await? == "/\n",
            "none"
        );
        Ok(())
    });
}

#[test]
fn e7_users_by_number_by_name_and_of_the_image() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(USER).await?;
        let line = "echo $(id -u) $(id -g) $(id -G)";
        fn number(uid: i64) -> Option<v1::Int64Value> {
            Some(v1::Int64Value { value: uid })
        }
        let run =
            async |name: &str, image: &str, change: fn(&mut v1::LinuxContainerSecurityContext)| -> Result<String> {
                let mut config = container(name, image, &["sh", "-c", line]);
                change(security(&mut config));
                bed.output_of(&config).await
            };
        ensure!(
            run("image", USER, |_| {}).await? == "1000 1000 1000 2000\n",
            "of the image"
        );
        ensure!(
            run("number", BUSYBOX, |context| context.run_as_user = number(1000)).await? == "1000 1000 1000 2000\n",
            "by number"
        );
        ensure!(
            run("name", BUSYBOX, |context| context.run_as_username = "app".into()).await? == "1000 1000 1000 2000\n",
            "by name"
        );
        let group = run("group", BUSYBOX, |context| {
            context.run_as_user = number(1000);
            context.run_as_group = number(3000);
        });
        ensure!(group.await?.starts_with("1000 3000"), "with a group");
        ensure!(
            run("stranger", BUSYBOX, |context| context.run_as_user = number(4321))
                .await?
                .starts_with("4321 0"),
            "without passwd entry"
        );
        let merged = run("merged", BUSYBOX, |context| {
            context.run_as_user = number(1000);
            context.supplemental_groups = vec![5000];
        });
        let merged = merged.await?;
        ensure!(merged.contains("2000") && merged.contains("5000"), "merged: {merged}");
        let strict = run("strict", BUSYBOX, |context| {
            context.run_as_user = number(1000);
            context.supplemental_groups = vec![5000];
            context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
        });
        let strict = strict.await?;
        ensure!(!strict.contains("2000") && strict.contains("5000"), "strict: {strict}");
        Ok(())
    });
}

#[test]
fn e7_status_tells_the_user_that_init_has() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = e2e::sleeper("main");
        security(&mut config).run_as_username = "app".into();
        security(&mut config).supplemental_groups = vec![5000];
        let id = bed.run(&config).await?;
        let user = bed
            .cri
            .container_status(&id)
            .await?
            .user
            .and_then(|user| user.linux)
            .unwrap_or_default();
        ensure!(user.uid == 1000 && user.gid == 1000, "{user:?}");
        ensure!(
            user.supplemental_groups.contains(&5000) && user.supplemental_groups.contains(&2000),
            "{user:?}"
        );
        Ok(())
    });
}

#[test]
fn e7_run_as_group_alone_is_an_error() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = e2e::sleeper("main");
        security(&mut config).run_as_group = Some(v1::Int64Value { value: 1000 });
        ensure!(bed.run(&config).await.is_err(), "it was accepted");
        Ok(())
    });
}

#[test]
fn e7_an_unknown_user_is_an_error_that_names_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = e2e::sleeper("main");
        security(&mut config).run_as_username = "nobody-knows".into();
        let Err(status) = bed.run(&config).await else {
            anyhow::bail!("it was accepted")
        };
        ensure!(status.message().contains("nobody-knows") || !node.ours(), "{status:?}");
        Ok(())
    });
}

#[test]
fn e7_a_terminal_sets_term_and_merges_the_streams() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "tty; echo $TERM; echo err >&2"]);
        config.tty = true;
        let (_, lines) = bed.run_to_end(&config).await?;
        let text: Vec<&str> = lines.iter().map(|line| line.content.trim_end_matches('\r')).collect();
        ensure!(
            text.len() == 3 && text[0].starts_with("/dev/") && text[1] == "xterm" && text[2] == "err",
            "{text:?}"
        );
        ensure!(lines.iter().all(|line| line.stream == "stdout"), "{lines:?}");
        Ok(())
    });
}

#[test]
fn e7_the_servers_own_limit_of_open_files_is_not_the_containers() {
    let options = Options {
        open_files: Some(1000),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let inside = bed
            .output_of(&container("main", BUSYBOX, &["sh", "-c", "ulimit -Sn"]))
            .await?;
        ensure!(inside == "1000\n", "inside {inside}");
        let id = bed.sleeper("sleeper").await?;
        let exec = bed.exec(&id, &["sh", "-c", "ulimit -Sn"]).await?;
        ensure!(exec.stdout == "1000\n", "exec {}", exec.stdout);
        let pid = node.daemon_pid().context("no server")?;
        let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = text.lines().find(|line| line.starts_with("Max open files"));
        let own = line
            .and_then(|line| line.split_whitespace().nth(3))
            .context("no limit of open files")?;
        ensure!(own.parse::<u64>()? > 1000, "the server may have {own} files open");
        Ok(())
    });
}

#[test]
fn e7_limits_reach_the_cgroup() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "sleep 100000"]);
        *resources(&mut config) = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 25_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let id = bed.run(&config).await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        ensure!(kernel.memory()? == Some(64 << 20), "memory {:?}", kernel.memory()?);
        ensure!(
            kernel.quota()? == (Some(25_000), 100_000),
            "quota {:?}",
            kernel.quota()?
        );
        ensure!(kernel.has_shares(512)?, "shares");
        ensure!(kernel.cpus()? == "0", "cpuset {}", kernel.cpus()?);
        if e2e::cgroups::by_systemd() {
            // systemd knows them too, so that what it writes again later is the same.
            let unit = e2e::cgroups::container(&id);
            let shown = std::process::Command::new("systemctl")
                .args([
                    "show",
                    &unit,
                    "-p",
                    "MemoryMax,CPUQuotaPerSecUSec,AllowedCPUs,Delegate,CPUWeight",
                ])
                .output()?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            for line in [
                "MemoryMax=67108864",
                "CPUQuotaPerSecUSec=250ms",
                "AllowedCPUs=0",
                "Delegate=yes",
                "CPUWeight=59",
            ] {
                ensure!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
            }
            let reloaded = std::process::Command::new("systemctl").arg("daemon-reload").status()?;
            ensure!(
                reloaded.success() && kernel.quota()? == (Some(25_000), 100_000),
                "changed by a reload"
            );
        }
        let told = bed
            .cri
            .container_status(&id)
            .await?
            .resources
            .and_then(|resources| resources.linux)
            .unwrap_or_default();
        ensure!(
            told.memory_limit_in_bytes == 64 << 20 && told.cpu_quota == 25_000 && told.cpu_shares == 512,
            "{told:?}"
        );
        Ok(())
    });
}

#[test]
fn e7_oom_score_is_set_or_clamped() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["cat", "/proc/self/oom_score_adj"]);
        resources(&mut config).oom_score_adj = 999;
        ensure!(bed.output_of(&config).await? == "999\n", "999");
        let mut config = container("low", BUSYBOX, &["cat", "/proc/self/oom_score_adj"]);
        resources(&mut config).oom_score_adj = -997;
        let value: i32 = bed.output_of(&config).await?.trim().parse()?;
        ensure!((-997..=0).contains(&value), "{value}");
        Ok(())
    });
}

#[test]
fn e7_the_cgroup_is_below_the_parent_that_the_kubelet_names() {
    test(async |node| -> Result<()> {
        let (parent, path) = e2e::cgroups::parent(node, &std::process::id().to_string());
        let bed = Bed::with(node, |config| {
            config.linux.get_or_insert_default().cgroup_parent.clone_from(&parent)
        })
        .await?;
        let id = bed.sleeper("main").await?;
        let pid = bed.cri.container_pid(&id).await?;
        let cgroup = node.inside(std::path::Path::new(&format!("/proc/{pid}/cgroup")));
        let cgroups = fs::read_to_string(&cgroup)?;
        let expected = format!("{path}/{}", e2e::cgroups::container(&id));
        ensure!(
            cgroups.lines().any(|line| line.ends_with(&expected)),
            "{expected} is not in\n{cgroups}"
        );
        Ok(())
    });
}
