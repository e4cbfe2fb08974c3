//! Devices of the host in a container: whose they are, and who asks for them.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{map_container, map_pod, pod, security};
use e2e::{Bed, Node, Options, container, refused, test, test_with};
use proto::cri as v1;
use tonic::Code;

/// `/dev/zero` under another name, for its owner alone, and the same as a CDI device.
fn nodes(node: &Node) -> Result<String> {
    let path = node.dir().join("own-zero").to_string_lossy().into_owned();
    let cdi = format!(
        "{{\"cdiVersion\": \"0.6.0\", \"kind\": \"e2e.example/zero\", \"devices\": [\
         {{\"name\": \"mine\", \"containerEdits\": {{\"deviceNodes\": [{{\"path\": \"/dev/by-cdi\", \"hostPath\": \"{path}\", \"fileMode\": 384}}]}}}},\
         {{\"name\": \"owned\", \"containerEdits\": {{\"deviceNodes\": [{{\"path\": \"/dev/owned\", \"hostPath\": \"{path}\", \"uid\": 5, \"gid\": 6}}]}}}}]}}"
    );
    node.sh(&format!(
        "mknod -m 600 {path} c 1 5 && mkdir -p /run/cdi && echo '{cdi}' > /run/cdi/zero.json"
    ))?;
    Ok(path)
}

fn reader(name: &str, host_path: &str, line: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
    config.devices = vec![v1::Device {
        host_path: host_path.into(),
        container_path: "/dev/mine".into(),
        permissions: "r".into(),
    }];
    config
}

fn user(config: &mut v1::ContainerConfig, uid: i64, gid: Option<i64>) {
    security(config).run_as_user = Some(v1::Int64Value { value: uid });
    security(config).run_as_group = gid.map(|value| v1::Int64Value { value });
}

#[test]
fn devices_belong_to_the_user_that_the_security_context_names() {
    let options = Options {
        config: "runtime:\n  device_ownership_from_security_context: true\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let path = nodes(node)?;
        let bed = Bed::new(node).await?;
        let line = "stat -c '%u:%g %a' /dev/mine; head -c 3 /dev/mine | wc -c";
        let mut config = reader("both", &path, line);
        user(&mut config, 1000, Some(2000));
        let found = bed.output_of(&config).await?;
        ensure!(found == "1000:2000 600\n3\n", "{found}");
        // What the context does not name is as on the host.
        let mut config = reader("user", &path, line);
        user(&mut config, 1000, None);
        let found = bed.output_of(&config).await?;
        ensure!(found == "1000:0 600\n3\n", "{found}");
        let found = bed.output_of(&reader("none", &path, line)).await?;
        ensure!(found == "0:0 600\n3\n", "{found}");
        // A CDI device too, but where its file names an owner.
        let line = "stat -c '%u:%g' /dev/by-cdi /dev/owned; head -c 3 /dev/by-cdi | wc -c";
        let mut config = container("cdi", BUSYBOX, &["sh", "-c", line]);
        user(&mut config, 1000, Some(2000));
        config.cdi_devices = ["mine", "owned"]
            .map(|name| v1::CdiDevice {
                name: format!("e2e.example/zero={name}"),
            })
            .into();
        let found = bed.output_of(&config).await?;
        ensure!(found == "1000:2000\n5:6\n3\n", "{found}");
        // The disks of the host are nobody's because a privileged container sees them.
        let mut sandbox = pod(node, "privileged");
        e2e::config::pod_security(&mut sandbox).privileged = true;
        let id = bed.cri.run_pod(&sandbox).await?;
        let mut config = reader("privileged", &path, "stat -c '%u:%g' /dev/mine /dev/kmsg");
        user(&mut config, 1000, Some(2000));
        security(&mut config).privileged = true;
        let main = bed.cri.run(&id, &config, &sandbox).await?;
        let status = bed.cri.exited(&main).await?;
        let lines = e2e::logs::read(&e2e::logs::path(&sandbox, &config))?;
        ensure!(status.exit_code == 0, "{lines:?}");
        let found = e2e::logs::joined(&lines, "stdout");
        ensure!(found == "1000:2000\n0:0\n", "{found}");
        Ok(())
    });
}

#[test]
fn in_a_user_namespace_the_named_user_has_the_device_under_its_id_inside() {
    let options = Options {
        config: "runtime:\n  device_ownership_from_security_context: true\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let path = nodes(node)?;
        let bed = Bed::with(node, map_pod).await?;
        let mut config = reader("main", &path, "stat -c '%u:%g' /dev/mine; head -c 3 /dev/mine | wc -c");
        user(&mut config, 1000, Some(2000));
        map_container(&mut config);
        let found = bed.output_of(&config).await?;
        ensure!(found == "1000:2000\n3\n", "{found}");
        Ok(())
    });
}

#[test]
fn without_the_key_devices_keep_the_hosts_owner() {
    test(async |node| -> Result<()> {
        let path = nodes(node)?;
        let bed = Bed::new(node).await?;
        let line = "stat -c '%u:%g' /dev/mine; head -c 3 /dev/mine 2>/dev/null | wc -c";
        let mut config = reader("main", &path, line);
        user(&mut config, 1000, Some(2000));
        let found = bed.output_of(&config).await?;
        ensure!(found == "0:0\n0\n", "{found}");
        Ok(())
    });
}

const LENT: &str = "
runtime:
  additional_devices: ['/dev/kmsg:/dev/for-all:w']
  allowed_devices: [/dev/full]
handlers:
  lender:
    pod_annotations: ['io.kubernetes.cri-o.*']
";

#[test]
fn devices_for_every_container_and_by_annotation_as_far_as_the_node_allows() {
    let options = Options {
        config: LENT.into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let line = "(: >> /dev/for-all) && echo writable; (: < /dev/for-all) || echo not readable; ls /dev/by-name";
        let run = async |handler: &str, annotation: &str| -> Result<_> {
            let mut sandbox = pod(node, "pod");
            let name = "io.kubernetes.cri-o.Devices".to_owned();
            sandbox.annotations.insert(name, annotation.to_owned());
            let id = cri.run_pod_with(&sandbox, handler).await?;
            let config = container("main", BUSYBOX, &["sh", "-c", line]);
            let created = cri.create(&id, &config, &sandbox).await;
            let Ok(main) = &created else {
                return Ok((created, String::new()));
            };
            cri.start(main).await?;
            cri.exited(main).await?;
            let lines = e2e::logs::read(&e2e::logs::path(&sandbox, &config))?;
            Ok((created, e2e::logs::joined(&lines, "stdout")))
        };
        let (_, found) = run("lender", "/dev/full:/dev/by-name:r").await?;
        ensure!(found == "writable\nnot readable\n/dev/by-name\n", "{found}");
        // Where the handler does not let the annotation through, it is a note of somebody's.
        let (_, found) = run("", "/dev/full:/dev/by-name:r").await?;
        ensure!(found == "writable\nnot readable\n", "{found}");
        for bad in ["/dev/zero:/dev/by-name", "/dev/full:/dev/by-name:x", "/dev/../dev/full"] {
            let (answer, _) = run("lender", bad).await?;
            refused(answer, Code::InvalidArgument, &["io.kubernetes.cri-o.Devices"])?;
        }
        Ok(())
    });
}
