//! AppArmor: the default profile, one of the node's own, none. A profile is judged by what it keeps a process from, and
//! by what the kernel says of the process, never by the specification.
//!
//! On a host without AppArmor (CI's own: no security module is built in) there is nothing to confine with: there these
//! tests hold that a profile of one's own is refused and that the others have no effect. `hack/vm` has it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::config::security;
use e2e::{Bed, Node, Options, container, test, test_with};
use proto::cri as v1;
use tonic::Code;
use v1::security_profile::ProfileType;

const DEFAULT: &str = "bulkhead-default";
const WHO: &str = "cat /proc/self/attr/apparmor/current 2>/dev/null || echo none";

/// Whether this host has AppArmor.
fn is_on() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with('Y'))
}

fn is_loaded(name: &str) -> Result<bool> {
    let list = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles")?;
    Ok(list.lines().any(|line| line.starts_with(&format!("{name} ("))))
}

/// Has the kernel take profiles, or forget them.
fn parser(option: &str, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("apparmor_parser")
        .args([option, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run apparmor_parser")?;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "apparmor_parser {option}: {status}");
    Ok(())
}

/// A profile that is in the kernel as long as this lives.
struct Profile {
    name: String,
}

impl Profile {
    /// All is allowed but to write below /data.
    fn load(node: &Node) -> Result<Self> {
        let profile = Self {
            name: format!("{}-own", node.name()),
        };
        parser("--replace", &profile.text())?;
        Ok(profile)
    }

    fn text(&self) -> String {
        format!(
            "profile {} flags=(attach_disconnected) {{\n file,\n capability,\n network,\n signal,\n deny /data/** wl,\n}}\n",
            self.name
        )
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if let Err(error) = parser("--remove", &self.text())
            && !std::thread::panicking()
        {
            panic!("{error:#}");
        }
    }
}

fn with(name: &str, kind: ProfileType, profile: &str, line: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
    security(&mut config).apparmor = Some(v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: profile.into(),
    });
    config
}

#[test]
fn e7_the_default_profile_is_loaded_and_confines() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        // What the capability would allow, and the profile does not.
        let line = format!("{WHO}; mkdir /m; mount -t tmpfs none /m 2>/dev/null && echo mounted");
        let able = |mut config: v1::ContainerConfig| {
            let capabilities = security(&mut config).capabilities.get_or_insert_default();
            capabilities.add_capabilities = vec!["SYS_ADMIN".into()];
            config
        };
        let said = |lines: &[e2e::logs::Line]| e2e::logs::joined(lines, "stdout");
        let config = able(with("default", ProfileType::RuntimeDefault, "", &line));
        let (_, lines) = bed.run_to_end(&config).await?;
        let text = said(&lines);
        if is_on() {
            ensure!(is_loaded(DEFAULT)?, "it is not in the kernel");
            ensure!(
                text.starts_with(&format!("{DEFAULT} (enforce)\n")) && !text.contains("mounted"),
                "{text}"
            );
        } else {
            ensure!(text == "none\nmounted\n", "{text}");
        }
        // Who asks for nothing gets it too.
        let mut silent = able(container("silent", BUSYBOX, &["sh", "-c", &line]));
        security(&mut silent).apparmor = None;
        let (_, lines) = bed.run_to_end(&silent).await?;
        ensure!(said(&lines) == text, "{lines:?}, not {text}");
        let config = able(with("unconfined", ProfileType::Unconfined, "", &line));
        let text = bed.output_of(&config).await?;
        let who = if is_on() { "unconfined" } else { "none" };
        ensure!(text == format!("{who}\nmounted\n"), "{text}");
        Ok(())
    });
}

#[test]
fn e7_a_profile_of_the_nodes_own_confines_the_container_and_what_is_executed_in_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        if !is_on() {
            let config = with("own", ProfileType::Localhost, "any", "true");
            return refused(
                bed.create(&config).await,
                Code::InvalidArgument,
                &["\"any\"", "no AppArmor"],
            );
        }
        let profile = Profile::load(node)?;
        let line =
            "mkdir -p /data /other; touch /other/file && echo other; touch /data/file && echo data; sleep 100000";
        for (name, reference, no_new_privs) in [
            ("plain", profile.name.clone(), false),
            ("prefixed", format!("localhost/{}", profile.name), true),
        ] {
            let mut config = with(name, ProfileType::Localhost, &reference, line);
            security(&mut config).no_new_privs = no_new_privs;
            let id = bed.run(&config).await?;
            let log = e2e::logs::path(&bed.config, &config);
            e2e::logs::wait_for(&log, "denied")
                .await
                .context("nothing was denied")?;
            let lines = e2e::logs::read(&log)?;
            let text = e2e::logs::joined(&lines, "stdout");
            ensure!(text == "other\n", "{name}: {lines:?}");
            let who = bed.cri.sh(&id, WHO).await?;
            ensure!(who == format!("{} (enforce)\n", profile.name), "{name}: {who}");
            let done = bed.exec(&id, &["touch", "/data/file"]).await?;
            ensure!(done.code != 0, "{name}: an exec may write: {done:?}");
            bed.cri.stop(&id, 0).await?;
        }
        Ok(())
    });
}

#[test]
fn e7_a_profile_that_is_not_loaded_is_refused_by_its_name() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let why = if is_on() { "not loaded" } else { "no AppArmor" };
        for reference in ["none-such", "localhost/none-such"] {
            let config = with("main", ProfileType::Localhost, reference, "true");
            refused(
                bed.create(&config).await,
                Code::InvalidArgument,
                &["\"none-such\"", why],
            )?;
        }
        let config = with("main", ProfileType::Localhost, "", "true");
        refused(bed.create(&config).await, Code::InvalidArgument, &["AppArmor"])
    });
}

#[test]
fn e7_a_privileged_container_has_no_profile_unless_it_names_one() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            e2e::config::pod_security(config).privileged = true;
        })
        .await?;
        let mut config = with("default", ProfileType::RuntimeDefault, "", WHO);
        security(&mut config).privileged = true;
        let who = bed.output_of(&config).await?;
        ensure!(who == if is_on() { "unconfined\n" } else { "none\n" }, "{who}");
        if is_on() {
            let profile = Profile::load(node)?;
            let mut config = with("own", ProfileType::Localhost, &profile.name, WHO);
            security(&mut config).privileged = true;
            let who = bed.output_of(&config).await?;
            ensure!(who == format!("{} (enforce)\n", profile.name), "{who}");
        }
        Ok(())
    });
}

#[test]
fn a_pods_profile_is_that_of_its_containers_that_say_nothing() {
    test(async |node| -> Result<()> {
        if !is_on() {
            // `what_a_pod_says_about_its_process_is_right_or_refused` sees that it is refused.
            return Ok(());
        }
        let profile = Profile::load(node)?;
        let bed = Bed::with(node, |config| {
            e2e::config::pod_security(config).apparmor = Some(v1::SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: profile.name.clone(),
            });
        })
        .await?;
        let silent = container(
            "silent",
            BUSYBOX,
            &[
                "sh",
                "-c",
                &format!("{WHO}; mkdir /data; touch /data/file || echo denied"),
            ],
        );
        let text = bed.output_of(&silent).await?;
        ensure!(text == format!("{} (enforce)\ndenied\n", profile.name), "{text}");
        for (name, kind, wanted) in [
            ("default", ProfileType::RuntimeDefault, format!("{DEFAULT} (enforce)\n")),
            ("unconfined", ProfileType::Unconfined, "unconfined\n".to_owned()),
        ] {
            let text = bed.output_of(&with(name, kind, "", WHO)).await?;
            ensure!(text == wanted, "{name}: {text}");
        }
        Ok(())
    });
}

#[test]
fn the_default_profile_comes_back_when_somebody_has_removed_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        if is_on() {
            // `aa-remove-unknown` does that to whatever has no file in /etc/apparmor.d.
            parser("--remove", &format!("profile {DEFAULT} {{}}\n"))?;
            ensure!(!is_loaded(DEFAULT)?, "it is still there");
        }
        let who = bed
            .output_of(&with("main", ProfileType::RuntimeDefault, "", WHO))
            .await?;
        let wanted = if is_on() {
            format!("{DEFAULT} (enforce)\n")
        } else {
            "none\n".to_owned()
        };
        ensure!(who == wanted, "{who}");
        Ok(())
    });
}

#[test]
fn the_node_may_have_another_default_profile_or_none() {
    let with_config = |line: &str| Options {
        config: format!("runtime:\n  {line}\n"),
        ..Options::default()
    };
    let who = if is_on() { "unconfined\n" } else { "none\n" };
    let asking = |name: &str| with(name, ProfileType::RuntimeDefault, "", WHO);
    test_with(
        with_config("apparmor_profile: unconfined"),
        async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            ensure!(bed.output_of(&asking("main")).await? == who, "it has a profile");
            Ok(())
        },
    );
    test_with(with_config("disable_apparmor: true"), async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        ensure!(bed.output_of(&asking("main")).await? == who, "it has a profile");
        let config = with("own", ProfileType::Localhost, DEFAULT, "true");
        refused(
            bed.create(&config).await,
            Code::InvalidArgument,
            &[DEFAULT, "no AppArmor"],
        )
    });
}
