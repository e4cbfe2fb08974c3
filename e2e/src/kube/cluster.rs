//! A control plane in a node's namespaces: etcd, API server, controller manager and scheduler as
//! they are released, and the node's kubelet registered with it.
//!
//! Nothing is kept: etcd does not sync its files, tokens stand in a file, certificates are those
//! that the API server makes for itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::kubelet::{ADDRESS, Kubelet, NAME, Settings, tail, without_proxy};
use crate::service::Service;
use crate::{places, run, wait};

const ADMIN: &str = "token-of-the-administrator";
const NODE: &str = "token-of-the-node";

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    /// The node.
    pub kubelet: Kubelet,
    services: Vec<(&'static str, Service)>,
    /// How long it took from the first program's start until the node was ready.
    pub took: Duration,
}

impl Cluster {
    /// Starts everything and waits until the node is ready for pods.
    ///
    /// # Errors
    /// Where one of the programs is missing or does not come up.
    pub async fn start(mut settings: Settings) -> Result<Self> {
        let kubelet = Kubelet::prepare(std::mem::take(&mut settings)).await?;
        let mut cluster = Self {
            kubelet,
            services: Vec::new(),
            took: Duration::ZERO,
        };
        let began = Instant::now();
        cluster.control_plane().await?;
        let config = cluster.kubeconfig(NODE);
        cluster.kubelet.flags(&[format!("--kubeconfig={}", config?.display())]);
        cluster.kubelet.start_kubelet().await?;
        cluster
            .eventually("the node is ready", 60, || {
                let Ok(node) = cluster.get(&["node", NAME]) else {
                    return Ok(None);
                };
                let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
                Ok(conditions
                    .iter()
                    .any(|one| one["type"] == "Ready" && one["status"] == "True")
                    .then_some(()))
            })
            .await?;
        cluster.took = began.elapsed();
        cluster
            .eventually("there is a service account", 60, || {
                Ok(cluster.get(&["serviceaccount", "default"]).ok().map(drop))
            })
            .await?;
        Ok(cluster)
    }

    fn dir(&self) -> PathBuf {
        self.kubelet.node.dir().join("plane")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    fn spawn(&mut self, name: &'static str, arguments: &[String]) -> Result<()> {
        let program = places::tool(name).context("run hack/setup --cluster")?;
        let mut command = self.kubelet.node.enter(program);
        command.args(arguments);
        without_proxy(&mut command);
        let service = Service::start(command, &self.log(name))?;
        self.services.push((name, service));
        Ok(())
    }

    async fn control_plane(&mut self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(dir.join("pki"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let key = at("sa.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-out", &key, "2048"])
            .output()?;
        ensure!(
            made.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        fs::write(
            dir.join("tokens.csv"),
            format!("{ADMIN},admin,admin,\"system:masters\"\n{NODE},system:node:{NAME},{NAME},\"system:nodes\"\n"),
        )?;
        let etcd = "http://127.0.0.1:2379";
        let flags = |all: &[&str]| all.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        self.spawn(
            "etcd",
            &flags(&[
                &format!("--data-dir={}", at("etcd")),
                &format!("--listen-client-urls={etcd}"),
                &format!("--advertise-client-urls={etcd}"),
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ]),
        )?;
        self.spawn(
            "kube-apiserver",
            &flags(&[
                &format!("--etcd-servers={etcd}"),
                &format!("--bind-address={ADDRESS}"),
                &format!("--advertise-address={ADDRESS}"),
                "--secure-port=6443",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                &format!("--token-auth-file={}", at("tokens.csv")),
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={key}"),
                &format!("--service-account-signing-key-file={key}"),
                &format!("--cert-dir={}", at("pki")),
            ]),
        )?;
        let admin = self.kubeconfig(ADMIN)?;
        self.eventually("the API server is ready", 300, || {
            Ok(self
                .kubectl(&["get", "--raw", "/readyz"])
                .ok()
                .filter(|text| text == "ok"))
        })
        .await?;
        let client = [
            format!("--kubeconfig={}", admin.display()),
            "--leader-elect=false".to_owned(),
        ];
        let mut manager = client.to_vec();
        manager.push(format!("--service-account-private-key-file={key}"));
        manager.push(format!("--root-ca-file={}", at("pki/apiserver.crt")));
        self.spawn("kube-controller-manager", &manager)?;
        self.spawn("kube-scheduler", &client)
    }

    /// Writes the file with which the owner of a token speaks to the API server.
    fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        let path = self.dir().join(format!("{token}.yaml"));
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'https://{ADDRESS}:6443', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// kubectl as the administrator, to be changed and started.
    ///
    /// # Errors
    /// Where it is not built.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self
            .kubelet
            .node
            .enter(places::tool("kubectl").context("run hack/setup --cluster")?);
        command
            .arg("--kubeconfig")
            .arg(self.dir().join(format!("{ADMIN}.yaml")))
            .args(arguments);
        command.env("HOME", self.dir());
        without_proxy(&mut command);
        Ok(command)
    }

    /// Runs kubectl; what it prints.
    ///
    /// # Errors
    /// Where it fails; its words are in the message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command(arguments)?.stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `kubectl apply -f` of these objects, in one call.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let file = self.dir().join("objects.json");
        fs::write(&file, list.to_string())?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// Waits until `probe` answers a value.
    ///
    /// # Errors
    /// Where it does not in time, or fails.
    pub async fn eventually<T>(
        &self,
        what: &str,
        seconds: u64,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, Duration::from_secs(seconds), async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            probe()
        })
        .await
    }

    /// Waits until a pod is as `is` wants it.
    ///
    /// # Errors
    /// Where it is not in time; `kubectl describe` is in the message.
    pub async fn until(
        &self,
        pod: &str,
        what: &str,
        seconds: u64,
        mut is: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let asked = format!("{pod}: {what}");
        let found = self.eventually(&asked, seconds, || {
            let pod = self.get(&["pod", pod])?;
            Ok(is(&pod).then_some(pod))
        });
        let found = found.await;
        found.with_context(|| self.kubectl(&["describe", "pod", pod]).unwrap_or_default())
    }

    /// Deletes every workload, ends all programs, and checks that nothing is left.
    ///
    /// # Errors
    /// Where something is left.
    pub async fn finish(mut self) -> Result<()> {
        self.kubectl(&[
            "delete",
            "deployments,daemonsets,jobs,pods",
            "--all",
            "--cascade=foreground",
            "--timeout=90s",
        ])?;
        self.eventually("every pod is gone", 60, || {
            let pods = self.get(&["pods", "-A"])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })
        .await?;
        for (_, mut service) in self.services.drain(..).rev() {
            service.kill()?;
        }
        self.kubelet.end().await
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, _) in &self.services {
            text.push_str(&format!("--- {name} ---\n{}\n", tail(&self.log(name), 8)));
        }
        text.push_str(&format!("--- kubelet ---\n{}\n", tail(&self.kubelet.log_path(), 30)));
        text.push_str(&format!("--- server ---\n{}", self.kubelet.node.log_tail(20)));
        text
    }
}

/// Runs `body` with a cluster.
///
/// # Panics
/// Where the body fails or something is left.
pub fn test(body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    test_for(Duration::from_secs(400), Settings::default(), body);
}

/// As [`test()`], with settings and a limit.
///
/// # Panics
/// As [`test()`].
pub fn test_for(limit: Duration, settings: Settings, body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let result = run::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let mut cluster = Cluster::start(settings).await?;
            let outcome = tokio::time::timeout(limit, body(&mut cluster)).await;
            if let Err(error) = outcome.unwrap_or_else(|_| bail!("the test was not done after {limit:?}")) {
                eprintln!("{}", cluster.logs());
                return Err(error);
            }
            cluster.finish().await
        })
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}
