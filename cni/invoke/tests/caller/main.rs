//! The caller's side over plugins that are shell scripts: `verbs` when they behave,
//! `bad_plugins` when they do not, `watching` while the configuration changes; `ahead` when which is started, `together`
//! what is one process.

#[cfg(test)]
mod ahead;
#[cfg(test)]
mod bad_plugins;
#[cfg(test)]
mod plugin;
#[cfg(test)]
mod together;
#[cfg(test)]
mod verbs;
#[cfg(test)]
mod watching;
