//! Network configurations, the plugins they name, forwarding, nftables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use config::Config;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
use serde_json::Value;

use super::{Finding, text};

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = configurations(&config.cni.conf_dir, &config.cni.bin_dirs);
    findings.push(forwarding(
        "IPv4 forwarding",
        text("/proc/sys/net/ipv4/ip_forward").as_deref(),
    ));
    findings.push(forwarding(
        "IPv6 forwarding",
        text("/proc/sys/net/ipv6/conf/all/forwarding").as_deref(),
    ));
    findings.push(netfilter());
    findings
}

fn configurations(conf_dir: &Path, bin_dirs: &[PathBuf]) -> Vec<Finding> {
    const NAME: &str = "CNI configuration";
    let consequence = "the node is NotReady and only pods on the host's network start, until one is there";
    let Some(file) = first_configuration(conf_dir) else {
        return vec![Finding::warn(
            NAME,
            format!("none in {}", conf_dir.display()),
            consequence,
        )];
    };
    let Some(types) = text(&file).and_then(|text| types(&text)) else {
        return vec![Finding::warn(
            NAME,
            format!("{} is no network configuration", file.display()),
            consequence,
        )];
    };
    let absent: Vec<&str> = types
        .iter()
        .map(String::as_str)
        .filter(|name| name.contains('/') || !bin_dirs.iter().any(|dir| dir.join(name).is_file()))
        .collect();
    let dirs = bin_dirs
        .iter()
        .map(|dir| dir.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let plugins = if absent.is_empty() {
        Finding::ok("CNI plugins", types.iter().cloned().collect::<Vec<_>>().join(" "))
    } else {
        let found = format!("not in {dirs}: {}", absent.join(" "));
        Finding::missing("CNI plugins", found, "pods with a network of their own cannot start")
    };
    vec![Finding::ok(NAME, file.display().to_string()), plugins]
}

/// The first configuration in lexical order, as the daemon chooses it.
fn first_configuration(dir: &Path) -> Option<PathBuf> {
    let names: BTreeSet<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.into_iter().find(|path| {
        path.extension()
            .is_some_and(|kind| ["conflist", "conf", "json"].iter().any(|wanted| kind == *wanted))
    })
}

/// Names of all programs that a configuration needs, those for addresses too.
fn types(text: &str) -> Option<BTreeSet<String>> {
    let conf: Value = serde_json::from_str(text).ok()?;
    let one = [conf.clone()];
    let plugins = conf
        .get("plugins")
        .map_or(Some(one.as_slice()), |list| list.as_array().map(Vec::as_slice))?;
    let mut types = BTreeSet::new();
    for plugin in plugins {
        types.insert(plugin.get("type")?.as_str()?.to_owned());
        if let Some(ipam) = plugin.pointer("/ipam/type").and_then(Value::as_str) {
            types.insert(ipam.to_owned());
        }
    }
    Some(types)
}

fn forwarding(name: &'static str, value: Option<&str>) -> Finding {
    match value.map(str::trim) {
        Some("1") => Finding::ok(name, "on"),
        Some(_) => Finding::warn(
            name,
            "off",
            "pods reach only this node, unless the network plugin switches it on",
        ),
        None => Finding::warn(name, "not in this kernel", "no pod addresses of this family"),
    }
}

/// Whether nftables answers: a netlink socket alone would not tell.
fn netfilter() -> Finding {
    const NAME: &str = "nftables";
    let consequence = "masquerading and host ports of the built-in plugins do not work";
    match ask_nftables() {
        Ok(true) => Finding::ok(NAME, "in the kernel"),
        Ok(false) => Finding::warn(NAME, "may not be asked by this user", "run the check as root to know"),
        Err(error) => Finding::warn(NAME, format!("not in this kernel ({error})"), consequence),
    }
}

/// Asks for the generation of the rule set, the cheapest of questions; `false` where this
/// user may not ask.
fn ask_nftables() -> Result<bool, rustix::io::Errno> {
    // nlmsghdr: length, type NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, sequence,
    // port; then nfgenmsg: family, version, resource id (linux/netfilter/nf_tables.h).
    let mut message = [0u8; 20];
    message[0..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&(10u16 << 8 | 16).to_ne_bytes());
    message[6..8].copy_from_slice(&1u16.to_ne_bytes());
    message[8..12].copy_from_slice(&1u32.to_ne_bytes());
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    rustix::net::sendto(
        &socket,
        &message,
        rustix::net::SendFlags::empty(),
        &netlink::SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = [0u8; 256];
    // The kernel answers before sendto returns, so nothing is waited for.
    let (length, _) = rustix::net::recv(&socket, answer.as_mut_slice(), rustix::net::RecvFlags::DONTWAIT)?;
    judge_answer(&answer[..length])
}

fn judge_answer(answer: &[u8]) -> Result<bool, rustix::io::Errno> {
    let part = |range: std::ops::Range<usize>| answer.get(range).ok_or(rustix::io::Errno::PROTO);
    let kind = part(4..6)?;
    if kind != 2u16.to_ne_bytes() {
        return Ok(true);
    }
    // NLMSG_ERROR: a negative errno follows the header.
    let mut code = [0; 4];
    code.copy_from_slice(part(16..20)?);
    let code = i32::from_ne_bytes(code);
    match rustix::io::Errno::from_raw_os_error(code.wrapping_neg()) {
        rustix::io::Errno::PERM => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;
    use std::fs;

    #[test]
    fn a_list_names_all_its_programs() {
        let list = r#"{"name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
        assert_eq!(
            types(list).unwrap().into_iter().collect::<Vec<_>>(),
            ["bridge", "host-local", "portmap"]
        );
        assert_eq!(types(r#"{"type":"loopback"}"#).unwrap().len(), 1);
        assert_eq!(types(r#"{"plugins":5}"#), None);
        assert_eq!(types("<html>"), None);
    }

    #[test]
    fn a_plugin_that_is_not_there_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let bin = [dir.path().to_owned()];
        assert_eq!(configurations(dir.path(), &bin)[0].level, Level::Warn);
        fs::write(
            dir.path().join("10-a.conflist"),
            r#"{"name":"a","plugins":[{"type":"bridge"}]}"#,
        )
        .unwrap();
        fs::write(dir.path().join("20-b.conflist"), "rubbish").unwrap();
        fs::write(dir.path().join("00-readme.txt"), "rubbish").unwrap();
        let findings = configurations(dir.path(), &bin);
        assert_eq!(findings[1].level, Level::Missing, "{findings:?}");
        fs::write(dir.path().join("bridge"), "").unwrap();
        assert!(
            configurations(dir.path(), &bin)
                .iter()
                .all(|finding| finding.level == Level::Ok)
        );
        fs::write(dir.path().join("10-a.conflist"), "rubbish").unwrap();
        assert_eq!(configurations(dir.path(), &bin)[0].level, Level::Warn);
    }

    #[test]
    fn an_answer_of_netlink_is_told_from_an_error() {
        let mut answer = [0u8; 36];
        answer[4..6].copy_from_slice(&0x0a0fu16.to_ne_bytes());
        assert_eq!(judge_answer(&answer), Ok(true));
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(judge_answer(&answer), Ok(false));
        answer[16..20].copy_from_slice(&(-22i32).to_ne_bytes());
        assert_eq!(judge_answer(&answer), Err(rustix::io::Errno::INVAL));
        assert!(judge_answer(&answer[..3]).is_err());
    }
}
