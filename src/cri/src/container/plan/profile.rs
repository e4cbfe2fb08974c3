//! A seccomp profile in a file: the OCI format, and the one that CRI-O's and Docker's own profiles are written in, whose
//! rules hold under conditions (`includes`, `excludes`: capabilities, architectures, the kernel's age) and whose
//! architectures are a map. A rule under conditions that were not understood would be a hole, so they are read or refused.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use spec::runtime::{Arch, Capability, LinuxSeccomp, LinuxSyscall};

use super::security::capability;
use crate::error::Error;

/// Longest profile that is read.
const MOST: u64 = 1 << 20;

/// A profile whose rules are still to be chosen.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Without rules.
    base: LinuxSeccomp,
    rules: Vec<Rule>,
    kernel: (u32, u32),
}

#[derive(Debug, Clone)]
struct Rule {
    call: LinuxSyscall,
    includes: When,
    excludes: When,
}

/// Conditions of a rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct When {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Architectures that go together.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Family {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

/// This machine's architecture, as Go names it.
fn own_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The same as the profiles' libraries name it.
fn own_family() -> Option<Arch> {
    match own_arch() {
        "amd64" => Some(Arch::ScmpArchX86_64),
        "arm64" => Some(Arch::ScmpArchAarch64),
        "riscv64" => Some(Arch::ScmpArchRiscv64),
        "s390x" => Some(Arch::ScmpArchS390x),
        "ppc64le" => Some(Arch::ScmpArchPpc64le),
        _ => None,
    }
}

/// "4.8" of "4.8.0-1-amd64".
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl When {
    fn check(&self) -> Result<(), String> {
        match &self.min_kernel {
            Some(text) if version(text).is_none() => Err(format!("minKernel {text:?} is no version")),
            _ => Ok(()),
        }
    }

    /// For each kind of condition that is there whether it is met; of several capabilities all are wanted, or any.
    fn met(&self, granted: &HashSet<Capability>, kernel: (u32, u32), all_caps: bool) -> Vec<bool> {
        let has = |name: &String| capability(name).is_ok_and(|one| granted.contains(&one));
        let mut met = Vec::new();
        if !self.caps.is_empty() {
            met.push(if all_caps {
                self.caps.iter().all(has)
            } else {
                self.caps.iter().any(has)
            });
        }
        if !self.arches.is_empty() {
            met.push(self.arches.iter().any(|arch| arch == own_arch()));
        }
        if let Some(least) = self.min_kernel.as_deref().and_then(version) {
            met.push(kernel >= least);
        }
        met
    }
}

impl Profile {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let file = fs::File::open(path).map_err(|e| Error::at("open the seccomp profile", path.display(), &e))?;
        let mut text = Vec::new();
        file.take(MOST)
            .read_to_end(&mut text)
            .map_err(|e| Error::at("read the seccomp profile", path.display(), &e))?;
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::parse(&text, version(&release).unwrap_or_default())
            .map_err(|why| Error::invalid(format!("seccomp profile {}: {why}", path.display())))
    }

    /// Parses its text, for a kernel.
    fn parse(text: &[u8], kernel: (u32, u32)) -> Result<Self, String> {
        let mut all: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let fields = all.as_object_mut().ok_or("it is no object")?;
        let calls = match fields.remove("syscalls") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(calls)) => calls,
            Some(_) => return Err("syscalls is no list".to_owned()),
        };
        if let Some(map) = fields.remove("archMap").filter(|map| !map.is_null()) {
            let families: Vec<Family> = serde_json::from_value(map).map_err(|e| format!("archMap: {e}"))?;
            let own = families.into_iter().find(|one| Some(one.architecture) == own_family());
            let list: Vec<Arch> = own
                .into_iter()
                .flat_map(|one| std::iter::once(one.architecture).chain(one.sub_architectures.unwrap_or_default()))
                .collect();
            let list = serde_json::to_value(list).map_err(|e| e.to_string())?;
            fields.insert("architectures".to_owned(), list);
        }
        let base = serde_json::from_value(all).map_err(|e| e.to_string())?;
        let rules = calls
            .into_iter()
            .enumerate()
            .map(|(number, call)| rule(call).map_err(|why| format!("syscalls[{number}]: {why}")));
        Ok(Self {
            base,
            rules: rules.collect::<Result<_, _>>()?,
            kernel,
        })
    }

    /// The rules that hold for a container with these capabilities.
    pub(crate) fn of(&self, granted: &HashSet<Capability>) -> LinuxSeccomp {
        let holds = |rule: &&Rule| {
            rule.includes.met(granted, self.kernel, true).iter().all(|met| *met)
                && !rule.excludes.met(granted, self.kernel, false).contains(&true)
        };
        let calls: Vec<LinuxSyscall> = self.rules.iter().filter(holds).map(|rule| rule.call.clone()).collect();
        let mut profile = self.base.clone();
        profile.set_syscalls((!calls.is_empty()).then_some(calls));
        profile
    }
}

fn rule(mut call: Value) -> Result<Rule, String> {
    let fields = call.as_object_mut().ok_or("it is no object")?;
    let mut when = |name: &str| -> Result<When, String> {
        let found = fields.remove(name).filter(|found| !found.is_null());
        let when: When = found
            .map_or(Ok(When::default()), serde_json::from_value)
            .map_err(|e| format!("{name}: {e}"))?;
        when.check().map_err(|why| format!("{name}: {why}"))?;
        Ok(when)
    };
    let (includes, excludes) = (when("includes")?, when("excludes")?);
    // The older spelling, for one call.
    if let (Some(name), false) = (
        fields.remove("name").filter(Value::is_string),
        fields.contains_key("names"),
    ) {
        fields.insert("names".to_owned(), Value::Array(vec![name]));
    }
    Ok(Rule {
        call: serde_json::from_value(call).map_err(|e| e.to_string())?,
        includes,
        excludes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, granted: &[Capability], kernel: (u32, u32)) -> Vec<String> {
        let profile = Profile::parse(text.as_bytes(), kernel).unwrap();
        let profile = profile.of(&granted.iter().copied().collect());
        let calls = profile.syscalls().clone().unwrap_or_default();
        calls.into_iter().flat_map(|call| call.names().clone()).collect()
    }

    #[test]
    fn rules_hold_under_their_conditions() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"name": "brk", "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64", "riscv64"]}},
            {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["odd"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_OF_TOMORROW"]}}]}"#;
        assert_eq!(names(text, &[], (6, 1)), ["read", "clone", "ptrace", "brk"]);
        assert_eq!(names(text, &[Capability::SysAdmin], (4, 7)), ["read", "brk"]);
        let both = [Capability::SysAdmin, Capability::Chown];
        assert_eq!(names(text, &both, (4, 8)), ["read", "mount", "ptrace", "brk"]);
    }

    #[test]
    fn an_architecture_brings_its_kin() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}]}"#;
        let profile = Profile::parse(text.as_bytes(), (6, 1)).unwrap().of(&HashSet::new());
        let wanted = match own_arch() {
            "amd64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
            "arm64" => vec![Arch::ScmpArchAarch64],
            _ => Vec::new(),
        };
        assert_eq!(profile.architectures().clone().unwrap_or_default(), wanted);
        assert_eq!(profile.syscalls(), &None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let rule = |rule: &str| format!("{{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{rule}]}}");
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": ["x"]}"#,
            &rule("7"),
            &rule(r#"{"names": ["read"], "action": "MAYBE"}"#),
            &rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"moon": "full"}}"#),
            &rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}"#),
            &rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": "ALL"}}"#),
        ] {
            assert!(Profile::parse(bad.as_bytes(), (6, 1)).is_err(), "{bad}");
        }
        let missing = Profile::read(Path::new("/no/such/profile.json")).unwrap_err();
        assert_eq!(missing.kind(), spec::Kind::NotFound);
    }
}
