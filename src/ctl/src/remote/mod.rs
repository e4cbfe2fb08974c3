//! The streaming client: WebSocket to the URL that Exec, Attach or PortForward answered.
//!
//! `connect` opens the socket, `session` runs a command on it, `terminal` is this side's terminal.

pub(crate) mod connect;
pub(crate) mod session;
pub(crate) mod terminal;

/// Flags of the streaming verbs.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Transport {
    /// Transport protocol to use: spdy or websocket (always websocket here)
    #[arg(short = 'r', long, value_parser = ["spdy", "websocket"], default_value = "websocket")]
    transport: String,
    #[command(flatten)]
    pub(crate) tls: connect::TlsFlags,
}
