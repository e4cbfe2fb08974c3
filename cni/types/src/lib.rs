//! What the two sides of the Container Network Interface share: network configuration
//! ([`conf`]), results ([`result`]), errors ([`error`]), versions ([`version`]) and the names
//! that may appear in paths and arguments ([`name`]). CNI specification 0.1.0 to 1.1.0.
//!
//! May use: no crate of ours.

pub mod conf;
pub mod error;
pub mod name;
pub mod result;
pub mod version;

pub use conf::{NetworkList, PluginConf};
pub use error::{Code, Error};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use version::Version;
