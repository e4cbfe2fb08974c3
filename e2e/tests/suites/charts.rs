//! The chart's installer, run as its DaemonSet runs it: a privileged container that sees the
//! node's root and processes. What it renders is checked by hack/tools/chart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::security;
use e2e::{Bed, Node, container, places, test};
use proto::cri as v1;

/// A node's root, the image's `/bulkhead`, and a systemctl that notes how it is called.
struct Host {
    root: PathBuf,
    image: PathBuf,
    fake: PathBuf,
}

impl Host {
    fn new(node: &Node) -> Result<Self> {
        let host = Self {
            root: node.dir().join("host"),
            image: node.dir().join("image"),
            fake: node.dir().join("fake"),
        };
        for dir in [&host.root, &host.image, &host.fake] {
            fs::create_dir_all(dir)?;
        }
        for program in ["bulkhead", "bulkhead-conmon", "bulkhead-cni"] {
            fs::write(host.image.join(program), format!("{program} one"))?;
        }
        for entry in fs::read_dir(places::tree().join("config/files"))? {
            let entry = entry?;
            fs::copy(entry.path(), host.image.join(entry.file_name()))?;
        }
        let systemctl = host.fake.join("systemctl");
        let calls = host.fake.join("calls");
        fs::write(&systemctl, format!("#!/bin/sh\necho \"$*\" >> {}\n", calls.display()))?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        Ok(host)
    }

    fn text(&self, path: &str) -> Result<String> {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// How systemctl was called since the last question.
    fn calls(&self) -> Result<String> {
        let path = self.fake.join("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "")?;
        Ok(text)
    }

    fn installer(&self, name: &str, chart: &Path, manage: bool) -> v1::ContainerConfig {
        let mut config = container(name, BUSYBOX, &["sh", "/chart/install.sh"]);
        let mount = |host: &Path, inside: &str| v1::Mount {
            container_path: inside.into(),
            host_path: host.to_string_lossy().into_owned(),
            ..Default::default()
        };
        config.mounts = vec![
            mount(&self.root, "/host"),
            mount(&self.image, "/bulkhead"),
            mount(chart, "/chart"),
        ];
        let path = format!("{}:/bin:/usr/bin", self.fake.display());
        config.envs = [
            ("HOST", "/host"),
            ("PROGRAMS", "/opt/bulkhead/bin"),
            ("CNI_PLUGINS", "/opt/cni/bin"),
            ("CONFIG", "/etc/bulkhead"),
            ("UNITS", "/etc/systemd/system"),
            ("EXAMPLE_NETWORK", "true"),
            ("MANAGE_SERVICE", if manage { "true" } else { "false" }),
            ("PATH", path.as_str()),
        ]
        .into_iter()
        .map(|(key, value)| v1::KeyValue {
            key: key.into(),
            value: value.to_owned().into(),
        })
        .collect();
        security(&mut config).privileged = true;
        security(&mut config).namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Node.into();
        config
    }
}

#[test]
fn the_installer_installs_once_and_again_only_what_changed() {
    test(async |node| -> Result<()> {
        let host = Host::new(node)?;
        let chart = node.dir().join("chart");
        fs::create_dir_all(&chart)?;
        fs::copy(
            places::tree().join("charts/bulkhead/files/install.sh"),
            chart.join("install.sh"),
        )?;
        fs::write(chart.join("config.yaml"), "log_level: debug\n")?;
        let bed = Bed::with(node, |pod| {
            e2e::config::pod_security(pod).privileged = true;
            e2e::config::pod_namespaces(pod).pid = v1::NamespaceMode::Node.into();
        })
        .await?;
        let run = async |name: &str, manage: bool| -> Result<String> {
            let (status, lines) = bed.run_to_end(&host.installer(name, &chart, manage)).await?;
            let text: Vec<String> = lines.into_iter().map(|line| line.content).collect();
            let text = text.join("\n");
            ensure!(status.exit_code == 0, "{}: {text}", status.exit_code);
            Ok(text)
        };

        run("first", true).await?;
        ensure!(
            host.text("/opt/bulkhead/bin/bulkhead-conmon")? == "bulkhead-conmon one",
            "monitor"
        );
        ensure!(host.text("/opt/cni/bin/host-local")? == "bulkhead-cni one", "plugin");
        ensure!(
            host.text("/etc/bulkhead/config.d/10-chart.yaml")? == "log_level: debug\n",
            "configuration"
        );
        ensure!(
            host.text("/etc/cni/net.d/10-bulkhead.conflist")?.contains("bridge"),
            "network"
        );
        let unit = host.text("/etc/systemd/system/bulkhead.service")?;
        ensure!(unit.contains("ExecStart=/opt/bulkhead/bin/bulkhead serve"), "{unit}");
        let mode = fs::metadata(host.root.join("opt/bulkhead/bin/bulkhead"))?
            .permissions()
            .mode();
        ensure!(mode & 0o7777 == 0o755, "mode {mode:o}");
        let calls = host.calls()?;
        ensure!(
            calls == "daemon-reload\nenable bulkhead.service\nrestart bulkhead.service\n",
            "{calls}"
        );

        let said = run("again", true).await?;
        ensure!(said.is_empty(), "installed what was there: {said}");
        let calls = host.calls()?;
        ensure!(calls == "start bulkhead.service\n", "{calls}");

        // A program that runs cannot be written to, but it can be replaced.
        fs::write(host.image.join("bulkhead"), "bulkhead two")?;
        fs::remove_file(chart.join("config.yaml"))?;
        let said = run("newer", false).await?;
        ensure!(said == "installed /opt/bulkhead/bin/bulkhead", "{said}");
        ensure!(
            host.text("/opt/bulkhead/bin/bulkhead")? == "bulkhead two",
            "not replaced"
        );
        ensure!(
            host.text("/etc/bulkhead/config.d/10-chart.yaml").is_err(),
            "a setting that was taken back stays"
        );
        ensure!(host.calls()?.is_empty(), "the service was touched");
        Ok(())
    });
}
