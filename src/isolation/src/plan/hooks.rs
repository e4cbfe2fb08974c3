//! Hooks: which program runs at which moment, with what, for how long.
//!
//! A hook's environment is what the spec gives it and nothing else: neither the container's, which the image writes
//! (CVE-2025-23266), nor ours.

use std::path::PathBuf;
use std::time::Duration;

use spec::runtime::{Hook as Given, Spec};

use crate::Error;

/// A hook that says nothing about its time has this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The moments, by their names in the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// What the state on its standard input says.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) stage: Stage,
    /// Its place among those of its stage.
    pub(crate) index: usize,
    pub(crate) path: PathBuf,
    /// The first is its name.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) deadline: Duration,
}

/// All of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hooks(Vec<Hook>);

impl Hooks {
    pub(crate) fn of(&self, stages: &[Stage]) -> impl Iterator<Item = &Hook> {
        stages
            .iter()
            .flat_map(move |stage| self.0.iter().filter(move |hook| hook.stage == *stage))
    }

    pub(crate) fn has(&self, stages: &[Stage]) -> bool {
        self.of(stages).next().is_some()
    }

    /// Whether the root has to be seen below the bundle for a while: those that run before the pivot look for it there.
    pub(crate) fn want_staging(&self) -> bool {
        self.has(&[Stage::Prestart, Stage::CreateRuntime, Stage::CreateContainer])
    }
}

pub(crate) fn plan(spec: &Spec) -> Result<Hooks, Error> {
    let Some(hooks) = spec.hooks() else {
        return Ok(Hooks::default());
    };
    let lists = [
        (Stage::Prestart, hooks.prestart()),
        (Stage::CreateRuntime, hooks.create_runtime()),
        (Stage::CreateContainer, hooks.create_container()),
        (Stage::StartContainer, hooks.start_container()),
        (Stage::Poststart, hooks.poststart()),
        (Stage::Poststop, hooks.poststop()),
    ];
    let mut all = Vec::new();
    for (stage, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            all.push(one(stage, index, hook)?);
        }
    }
    Ok(Hooks(all))
}

fn one(stage: Stage, index: usize, hook: &Given) -> Result<Hook, Error> {
    let invalid = |why: String| Error::invalid(format!("hooks.{}[{index}]", stage.name()), why);
    if !hook.path().is_absolute() {
        return Err(invalid(format!("path {:?} is not absolute", hook.path())));
    }
    let args = match hook.args() {
        Some(args) if !args.is_empty() => args.clone(),
        _ => vec![hook.path().display().to_string()],
    };
    let texts = args.iter().chain(hook.env().iter().flatten());
    if sys::path::has_nul(hook.path()) || texts.clone().any(|text| text.contains('\0')) {
        return Err(invalid("holds a NUL byte".to_owned()));
    }
    let variable = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| invalid(format!("env {text:?} is not name=value")))?;
        Ok::<_, Error>((name.to_owned(), value.to_owned()))
    };
    let deadline = match hook.timeout() {
        None => DEADLINE,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds),
            _ => return Err(invalid(format!("timeout {seconds} is not above 0"))),
        },
    };
    Ok(Hook {
        stage,
        index,
        path: hook.path().clone(),
        args,
        env: hook.env().iter().flatten().map(variable).collect::<Result<_, _>>()?,
        deadline,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{base, plan as planned};
    use serde_json::{Value, json};

    fn with(hooks: &Value) -> Result<Hooks, Error> {
        let mut spec = base();
        spec["hooks"] = hooks.clone();
        planned(spec).map(|plan| plan.hooks)
    }

    #[test]
    fn each_has_its_place_arguments_environment_and_deadline() {
        let hooks = with(&json!({
            "poststop": [{"path": "/z"}],
            "createRuntime": [{"path": "/a", "args": ["a", "b"], "env": ["X=1=2"], "timeout": 3}, {"path": "/c"}],
        }))
        .unwrap();
        let got: Vec<&Hook> = hooks.of(&[Stage::CreateRuntime, Stage::Poststop]).collect();
        assert_eq!(got.len(), 3);
        assert_eq!(
            (got[0].args.join(" "), got[0].deadline.as_secs()),
            ("a b".to_owned(), 3)
        );
        assert_eq!(got[0].env, [("X".to_owned(), "1=2".to_owned())]);
        assert_eq!(
            (got[1].index, &got[1].args[0][..], got[1].env.len(), got[1].deadline),
            (1, "/c", 0, DEADLINE)
        );
        assert!(hooks.want_staging() && !with(&json!({"poststop": [{"path": "/z"}]})).unwrap().want_staging());
        assert!(!hooks.has(&[Stage::Poststart]));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for bad in [
            json!({"path": "a"}),
            json!({"path": "/a", "timeout": 0}),
            json!({"path": "/a", "timeout": -1}),
            json!({"path": "/a", "env": ["x"]}),
            json!({"path": "/a", "env": ["=x"]}),
            json!({"path": "/a", "args": ["a\0b"]}),
            json!({"path": "/a\0"}),
        ] {
            let error = with(&json!({ "startContainer": [bad] })).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{bad}");
            assert!(error.to_string().starts_with("hooks.startContainer[0]"), "{error}");
        }
    }
}
