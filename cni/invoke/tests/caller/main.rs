//! The caller's side over plugins that are shell scripts: `verbs` when they behave,
//! `bad_plugins` when they do not, `watching` while the configuration changes.

mod bad_plugins;
mod plugin;
mod verbs;
mod watching;
