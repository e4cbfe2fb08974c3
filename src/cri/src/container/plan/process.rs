//! The program: arguments, environment, working directory, stop signal. Pure.

use proto::cri;
use spec::image::Config as ImageConfig;

use crate::error::Error;

/// PATH where neither the image nor CRI sets one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program and arguments. CRI's command replaces ENTRYPOINT and drops CMD; CRI's args alone
/// replace CMD.
pub(crate) fn args(config: &cri::ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let own = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (mut args, rest) = if !config.command.is_empty() {
        (config.command.clone(), config.args.clone())
    } else if !config.args.is_empty() {
        (own(image.entrypoint()), config.args.clone())
    } else {
        (own(image.entrypoint()), own(image.cmd()))
    };
    args.extend(rest);
    match args.first() {
        None => Err(Error::invalid(
            "no command specified: neither the container nor its image names a program",
        )),
        Some(first) if first.is_empty() => Err(Error::invalid("no command specified: the program's name is empty")),
        Some(_) => Ok(args),
    }
}

/// What the environment is made of beside the image's and CRI's variables.
#[derive(Debug)]
pub(crate) struct EnvInput<'a> {
    /// From passwd.
    pub(crate) home: &'a str,
    /// The pod's host name.
    pub(crate) hostname: &'a str,
    /// How an init system is told that it is in a container.
    pub(crate) manager: Option<(&'static str, &'static str)>,
}

/// The environment: the image's variables first, in their order; CRI's override by name, in
/// place, and follow; then what programs rely on, where it is missing.
pub(crate) fn env(
    config: &cri::ContainerConfig,
    image: &ImageConfig,
    input: &EnvInput<'_>,
) -> Result<Vec<String>, Error> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut set = |env: &mut Vec<(String, String)>, name: &str, value: &str| {
        if let Some(place) = places.get(name) {
            let (_, old): &mut (String, String) = &mut env[*place];
            value.clone_into(old);
        } else {
            places.insert(name.to_owned(), env.len());
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    // An entry without `=` would be expanded from our own environment elsewhere
    // (CVE-2026-57231); here it and an entry without a name are dropped.
    for entry in image.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=')
            && !name.is_empty()
            && !entry.contains('\0')
        {
            set(&mut env, name, value);
        }
    }
    for entry in &config.envs {
        let value = std::str::from_utf8(&entry.value)
            .map_err(|_| Error::invalid(format!("environment variable {:?}: its value is not UTF-8", entry.key)))?;
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) || value.contains('\0') {
            let key: String = entry.key.chars().take(80).collect();
            return Err(Error::invalid(format!(
                "environment variable {key:?}: an empty name, `=` or NUL is impossible"
            )));
        }
        set(&mut env, &entry.key, value);
    }
    let missing = |env: &[(String, String)], name: &str| !env.iter().any(|(n, _)| n == name);
    let mut defaults = vec![
        ("PATH", DEFAULT_PATH),
        ("HOME", input.home),
        ("HOSTNAME", input.hostname),
    ];
    if config.tty {
        defaults.push(("TERM", "xterm"));
    }
    defaults.extend(input.manager);
    for (name, value) in defaults {
        if missing(&env, name) && !value.is_empty() {
            set(&mut env, name, value);
        }
    }
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// The working directory, absolute.
pub(crate) fn cwd(config: &cri::ContainerConfig, image: &ImageConfig) -> Result<String, Error> {
    let image_dir = image.working_dir().as_deref().unwrap_or("");
    let dir = if config.working_dir.is_empty() {
        image_dir
    } else {
        config.working_dir.as_str()
    };
    match dir {
        "" => Ok("/".to_owned()),
        dir if !config.working_dir.is_empty() && !dir.starts_with('/') => {
            Err(Error::invalid(format!("working directory {dir:?} is not absolute")))
        }
        // Images may say `app`; builders mean `/app`.
        dir if !dir.starts_with('/') => Ok(format!("/{dir}")),
        dir => Ok(dir.to_owned()),
    }
}

/// Number of a real-time signal of the C library: 32 and 33 are its own.
const RTMIN: i32 = 34;
/// The last signal.
const RTMAX: i32 = 64;

const SIGNALS: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("UNUSED", 31),
];

/// The signal that `name` names: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub(crate) fn signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        RTMIN
            + if offset.is_empty() {
                0
            } else {
                offset.strip_prefix('+')?.parse::<i32>().ok()?
            }
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        RTMAX
            - if offset.is_empty() {
                0
            } else {
                offset.strip_prefix('-')?.parse::<i32>().ok()?
            }
    } else {
        return SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, number)| *number);
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The stop signal: CRI's, the image's, else `usual`.
pub(crate) fn stop_signal(config: &cri::ContainerConfig, image: &ImageConfig, usual: i32) -> Result<i32, Error> {
    if config.stop_signal() != cri::Signal::RuntimeDefault {
        let name = config.stop_signal().as_str_name();
        return cri_signal(name).ok_or_else(|| Error::invalid(format!("{name} is no signal of this platform")));
    }
    match image.stop_signal().as_deref().filter(|s| !s.is_empty()) {
        Some(name) => {
            signal(name).ok_or_else(|| Error::invalid(format!("the image's stop signal {name:?} is unknown")))
        }
        None => Ok(usual),
    }
}

/// The signal of CRI's enum name: `SIGNAL_SIGRTMINPLUS3` is SIGRTMIN+3.
fn cri_signal(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIGNAL_")?;
    signal(&name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// The CRI name of a signal number.
pub(crate) fn to_cri(number: i32) -> cri::Signal {
    (1..=65)
        .filter_map(|value| cri::Signal::try_from(value).ok())
        .find(|signal| cri_signal(signal.as_str_name()) == Some(number))
        .unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::image::ConfigBuilder;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        ConfigBuilder::default()
            .entrypoint(strings(entrypoint))
            .cmd(strings(cmd))
            .build()
            .unwrap()
    }

    fn config(command: &[&str], args: &[&str]) -> cri::ContainerConfig {
        cri::ContainerConfig {
            command: strings(command),
            args: strings(args),
            ..Default::default()
        }
    }

    #[test]
    fn command_and_args_merge_like_kubernetes_says() {
        let image = image(&["ep"], &["cmd"]);
        for (command, arguments, wanted) in [
            (&[][..], &[][..], &["ep", "cmd"][..]),
            (&["c"], &[], &["c"]),
            (&[], &["a"], &["ep", "a"]),
            (&["c"], &["a"], &["c", "a"]),
        ] {
            assert_eq!(args(&config(command, arguments), &image).unwrap(), strings(wanted));
        }
        let nothing = args(&config(&[], &[]), &ImageConfig::default()).unwrap_err();
        assert!(nothing.to_string().contains("no command specified"));
    }

    #[test]
    fn the_environment_keeps_order_and_overrides_by_name() {
        let image = ConfigBuilder::default()
            .env(strings(&["A=1", "FOO", "=x", "", "B=C=D"]))
            .build()
            .unwrap();
        let pair = |k: &str, v: &'static str| cri::KeyValue {
            key: k.into(),
            value: v.into(),
        };
        let mut config = cri::ContainerConfig {
            envs: vec![pair("B", "2"), pair("Z", "3")],
            ..Default::default()
        };
        let input = EnvInput {
            home: "/root",
            hostname: "pod",
            manager: None,
        };
        let got = env(&config, &image, &input).unwrap();
        assert_eq!(got[..3], strings(&["A=1", "B=2", "Z=3"]));
        assert_eq!(
            got[3..],
            [
                format!("PATH={DEFAULT_PATH}"),
                "HOME=/root".into(),
                "HOSTNAME=pod".into()
            ]
        );
        config.tty = true;
        assert_eq!(env(&config, &image, &input).unwrap().last().unwrap(), "TERM=xterm");
        config.envs = vec![cri::KeyValue {
            key: "X".into(),
            value: bytes::Bytes::from_static(b"\xff"),
        }];
        assert!(env(&config, &image, &input).unwrap_err().to_string().contains("UTF-8"));
        config.envs = vec![pair("a=b", "1")];
        assert!(env(&config, &image, &input).is_err());
    }

    #[test]
    fn signals_in_every_spelling() {
        assert_eq!(signal("SIGTERM"), Some(15));
        assert_eq!(signal("quit"), Some(3));
        assert_eq!(signal("SIGRTMIN+3"), Some(37));
        assert_eq!(signal("RTMAX-1"), Some(63));
        assert_eq!(signal("64"), Some(64));
        for bad in ["", "0", "65", "SIGRTMIN+99", "SIGNOPE", "RTMIN3"] {
            assert_eq!(signal(bad), None, "{bad}");
        }
        assert_eq!(to_cri(15), cri::Signal::Sigterm);
        assert_eq!(to_cri(37), cri::Signal::Sigrtminplus3);
        assert_eq!(to_cri(63), cri::Signal::Sigrtmaxminus1);
        for value in 1..=65 {
            let name = cri::Signal::try_from(value).unwrap().as_str_name();
            assert!(cri_signal(name).is_some(), "{name}");
        }
    }

    #[test]
    fn stop_signal_order() {
        let image = ConfigBuilder::default()
            .stop_signal("SIGQUIT".to_owned())
            .build()
            .unwrap();
        let mut config = cri::ContainerConfig::default();
        assert_eq!(stop_signal(&config, &ImageConfig::default(), 15).unwrap(), 15);
        assert_eq!(stop_signal(&config, &ImageConfig::default(), 37).unwrap(), 37);
        assert_eq!(stop_signal(&config, &image, 37).unwrap(), 3);
        config.stop_signal = cri::Signal::Sigusr1.into();
        assert_eq!(stop_signal(&config, &image, 37).unwrap(), 10);
    }
}
