//! `version`: asks the runtime for its name and versions, and prints them as crictl does.

use std::io::Write;

use anyhow::Result;
use proto::cri::VersionRequest;

use crate::client::{Node, answer};

pub(crate) async fn run(node: &Node, out: &mut dyn Write) -> Result<()> {
    let request = node.ask(VersionRequest {
        version: "v1".to_owned(),
    });
    let version = answer(node.runtime().await?.version(request).await)?;
    writeln!(out, "Version:  {}", version.version)?;
    writeln!(out, "RuntimeName:  {}", version.runtime_name)?;
    writeln!(out, "RuntimeVersion:  {}", version.runtime_version)?;
    writeln!(out, "RuntimeApiVersion:  {}", version.runtime_api_version)?;
    Ok(())
}
