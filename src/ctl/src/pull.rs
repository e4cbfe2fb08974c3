//! `pull`: pulls an image.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use proto::cri::{AuthConfig, ImageSpec, PodSandboxConfig, PullImageRequest};

use crate::client::{Node, answer};
use crate::{human, remote, runp, select};

/// Flags about the registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Credentials {
    /// Credentials for accessing the registry
    #[arg(long, value_name = "USERNAME[:PASSWORD]", conflicts_with = "auth")]
    creds: Option<String>,
    /// base64 of USERNAME or USERNAME:PASSWORD for accessing the registry
    #[arg(long, value_name = "AUTH_STRING")]
    auth: Option<String>,
    /// Name for accessing the registry; the password is asked for
    #[arg(short, long)]
    username: Option<String>,
    /// Maximum time for pulling the image, 0s for no limit
    #[arg(long, alias = "pt", value_parser = human::parse_duration)]
    pub(crate) pull_timeout: Option<Duration>,
}

impl Credentials {
    /// What to tell the server, if anything was given here or in the environment.
    pub(crate) fn auth(&self) -> Result<Option<AuthConfig>> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(username) = &self.username {
            let password = remote::terminal::ask_password("Enter Password:")?;
            return Ok(Some(AuthConfig {
                username: username.clone(),
                password,
                ..AuthConfig::default()
            }));
        }
        let creds = self
            .creds
            .clone()
            .or_else(|| env("CRICTL_CREDS").filter(|_| self.auth.is_none()));
        if let Some(creds) = creds {
            return login(&creds).map(Some);
        }
        let auth = self.auth.clone().or_else(|| env("CRICTL_AUTH"));
        Ok(auth.map(|auth| AuthConfig {
            auth,
            ..AuthConfig::default()
        }))
    }
}

fn login(creds: &str) -> Result<AuthConfig> {
    let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
    if username.is_empty() {
        bail!("username can't be empty");
    }
    Ok(AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    })
}

/// Flags of `pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    credentials: Credentials,
    /// pod-config.[json|yaml] of the pod that the image is for
    #[arg(long)]
    pod_config: Option<PathBuf>,
    /// Annotation to be set on the pulled image
    #[arg(short, long)]
    annotation: Vec<String>,
    /// Image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let auth = args.credentials.auth()?;
    let pod = args
        .pod_config
        .map(|path| runp::load(&path).context("load podSandboxConfig"))
        .transpose()?;
    let annotations = select::labels(&args.annotation)?;
    let image = ImageSpec {
        image: args.image,
        annotations,
        ..ImageSpec::default()
    };
    let image_ref = pull(node, image, auth, pod, args.credentials.pull_timeout).await?;
    writeln!(out, "Image is up to date for {image_ref}")?;
    Ok(())
}

/// Pulls an image; what it is known by.
pub(crate) async fn pull(
    node: &Node,
    image: ImageSpec,
    auth: Option<AuthConfig>,
    pod: Option<PodSandboxConfig>,
    limit: Option<Duration>,
) -> Result<String> {
    let request = PullImageRequest {
        image: Some(image),
        auth,
        sandbox_config: pod,
    };
    // A pull takes as long as it takes: only a limit of its own cuts it off.
    let request = node.ask_within(request, limit.filter(|limit| !limit.is_zero()));
    Ok(answer(node.images().await?.pull_image(request).await)?.image_ref)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins() {
        let auth = login("me:pass:word").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("me", "pass:word"));
        assert_eq!(login("me").unwrap().password, "");
        login(":x").unwrap_err();
        login("").unwrap_err();
    }
}
