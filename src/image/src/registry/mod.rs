//! The registry side of a pull: where (`hosts`), how (`dial`, `client`), who (`auth`, `token`)
//! and the bytes of one blob (`blob`).
//!
//! Rules that hold in every file here: redirects are followed by hand and never carry a
//! credential to another origin; every body has a size limit; every wait has a deadline; https
//! never falls back to http.

pub(crate) mod auth;
pub(crate) mod blob;
pub(crate) mod client;
pub(crate) mod dial;
pub(crate) mod hosts;
pub(crate) mod reasons;
pub(crate) mod session;
pub(crate) mod token;
