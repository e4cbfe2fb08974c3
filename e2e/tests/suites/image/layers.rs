//! What is in the root: whiteouts, opaque directories, links, xattrs, devices.

use anyhow::{Result, ensure};
use e2e::{Bed, Node, container, test};

const LAYERS: &str = "127.0.0.1:5000/layers:1";

async fn see(node: &Node, line: &str) -> Result<String> {
    let bed = Bed::new(node).await?;
    bed.cri.pull(LAYERS).await?;
    bed.output_of(&container("main", LAYERS, &["sh", "-c", line])).await
}

#[test]
fn whiteouts_and_opaque_directories() {
    test(async |node| -> Result<()> {
        let output = see(
            node,
            "ls /d; cat /d/changed /d/kept; echo; ls -A /opaque; cat /was-dir /was-file/inner",
        )
        .await?;
        ensure!(output == "changed\nkept\nupperlower\nseen\nupperupper", "{output:?}");
        Ok(())
    });
}

#[test]
fn links_modes_owners_and_times() {
    test(async |node| -> Result<()> {
        let output = see(node, "stat -c '%i' /hard-a /hard-b | uniq | wc -l; stat -c '%h %a' /hard-a; stat -c %a /setuid /tmp; stat -c '%u %g %a' /owned; stat -c %Y /owned; cat /long/* | wc -c; readlink /bin/sh").await?;
        ensure!(
            output == "1\n2 600\n4755\n1777\n1234 5678 640\n1704067200\n4\nbusybox\n",
            "{output:?}"
        );
        Ok(())
    });
}

#[test]
fn devices_fifos_xattrs_and_big_files() {
    test(async |node| -> Result<()> {
        let output = see(node, "stat -c '%F %t %T' /null; stat -c %F /fifo; stat -c %s /zeroes; head -c 4194304 /zeroes | tr -d '\\0' | wc -c").await?;
        ensure!(output == "character special file 1 3\nfifo\n4194304\n0\n", "{output:?}");
        let bed = Bed::new(node).await?;
        let id = bed.run(&container("xattr", LAYERS, &["sleep", "100000"])).await?;
        let pid = bed.cri.container_pid(&id).await?;
        // Read from outside: busybox has no getcap. 20 bytes, version 2, permitted bit 10.
        let found = node.sh(&format!(
            "perl -e 'my ($path, $name, $value) = (\"/proc/{pid}/root/capable\\0\", \"security.capability\\0\", \"\\0\" x 64); syscall(191, $path, $name, $value, 64) == 20 or exit 1; print unpack(\"H16\", $value)'"
        ))?;
        ensure!(found == "0100000200040000", "{found}");
        Ok(())
    });
}

#[test]
fn layers_are_shared_between_images() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull("127.0.0.1:5000/busybox:1").await?;
        let usage = |node: &Node| -> Result<u64> {
            Ok(node
                .sh(&format!("du -sk {} | cut -f1", node.root_dir().display()))?
                .trim()
                .parse()?)
        };
        let before = usage(node)?;
        cri.pull("127.0.0.1:5000/busybox:2").await?;
        cri.pull("127.0.0.1:5000/busybox:zstd").await?;
        let after = usage(node)?;
        // busybox is 2 MB: a second copy would show. containerd keeps each compressed blob.
        ensure!(
            after < before + if node.ours() { 500 } else { 2500 },
            "{before} kB, then {after} kB"
        );
        Ok(())
    });
}
