//! Places where a test makes a verb fail, wait or die.
//!
//! A step of a verb is named `<verb>.<step>`. Builds with the feature `failpoints` read the
//! environment variable `BULKHEAD_FAILPOINT` (`run_pod.network=kill`, `=error`, `=sleep:MS`;
//! several with commas); in other builds `action` is the constant `None`.

#[cfg(any(test, feature = "failpoints"))]
use std::str::FromStr;
use std::time::Duration;

/// What a test wants to happen at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process dies of SIGKILL.
    Kill,
    /// The step fails.
    Fail,
    /// The step takes longer.
    Sleep(Duration),
}

/// What is wanted at `<verb>.<step>`.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn action(_verb: &str, _step: &str) -> Option<Action> {
    None
}

/// What is wanted at `<verb>.<step>`. What is no action is a failure, so that a slip of the
/// pen in a test is seen.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn action(verb: &str, step: &str) -> Option<Action> {
    chosen(&std::env::var("BULKHEAD_FAILPOINT").ok()?, &format!("{verb}.{step}"))
}

#[cfg(any(test, feature = "failpoints"))]
fn chosen(wanted: &str, here: &str) -> Option<Action> {
    let (_, action) = wanted
        .split(',')
        .filter_map(|one| one.split_once('='))
        .find(|(at, _)| *at == here)?;
    Some(match action.split_once(':') {
        Some(("sleep", ms)) => u64::from_str(ms).map_or(Action::Fail, |ms| Action::Sleep(Duration::from_millis(ms))),
        _ if action == "kill" => Action::Kill,
        _ => Action::Fail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_of_this_verb_alone_is_meant() {
        let wanted = "a.b=kill,a.c=sleep:7,d.b=error,e.f=sleep:x";
        assert_eq!(chosen(wanted, "a.b"), Some(Action::Kill));
        assert_eq!(chosen(wanted, "a.c"), Some(Action::Sleep(Duration::from_millis(7))));
        assert_eq!(chosen(wanted, "d.b"), Some(Action::Fail));
        assert_eq!(chosen(wanted, "e.f"), Some(Action::Fail));
        assert_eq!(chosen(wanted, "a"), None);
        assert_eq!(chosen(wanted, "d.c"), None);
    }
}
