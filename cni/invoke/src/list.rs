//! The verbs over all plugins of a network: ADD and CHECK in the order of the configuration,
//! DEL backwards, each plugin given the result of those before it.
//!
//! DEL uses the configuration, arguments and result recorded at ADD, so that it undoes what was
//! done, also when the configuration has changed or is gone since; without a record it uses the
//! configuration of now. It halts at the first plugin that fails, as the specification says: an
//! address must not come free while rules still lead to it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use cni_types::{AddResult, NetworkList, PluginConf, Version, name};
use serde_json::{Map, Value, json};

use crate::cache::{Cache, Cached};
use crate::error::Error;
use crate::exec::{self, Invocation, Started};
use crate::turn::Turn;
use crate::{Attachment, Cni};

/// `NSFS_MAGIC` (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The namespace's path, or nothing where there is none: after a reboot a plain file may lie
/// there, and some plugins fail for ever on it.
fn living(netns: Option<&Path>) -> String {
    let is_namespace = |path: &&Path| {
        #[allow(clippy::unnecessary_cast, reason = "f_type has another width on other architectures")]
        rustix::fs::statfs(*path).is_ok_and(|stat| stat.f_type as i64 == NSFS_MAGIC)
    };
    netns
        .filter(is_namespace)
        .map(|path| path.display().to_string())
        .unwrap_or_default()
}

fn check_names(attachment: &Attachment) -> Result<(), Error> {
    name::container_id(&attachment.container_id)
        .and_then(|()| name::interface(&attachment.ifname))
        .map_err(|error| Error::Attachment(error.to_string()))?;
    match attachment
        .args
        .iter()
        .find(|(key, value)| key.contains([';', '=']) || value.contains(';'))
    {
        Some((key, _)) => Err(Error::Attachment(format!("CNI argument {key:?} holds a separator"))),
        None => Ok(()),
    }
}

/// The object for one plugin.
fn conf_of(
    list: &NetworkList,
    plugin: &PluginConf,
    previous: Option<&Value>,
    capabilities: &Map<String, Value>,
) -> Value {
    let mut conf = plugin.raw.clone();
    conf.insert("name".to_owned(), json!(list.name));
    conf.insert("cniVersion".to_owned(), json!(list.version));
    if let Some(previous) = previous {
        conf.insert("prevResult".to_owned(), previous.clone());
    }
    let of_plugin: Map<String, Value> = plugin
        .capabilities
        .iter()
        .filter_map(|key| capabilities.get(key).map(|value| (key.clone(), value.clone())))
        .collect();
    if !of_plugin.is_empty() {
        conf.insert("runtimeConfig".to_owned(), Value::Object(of_plugin));
    }
    Value::Object(conf)
}

/// The process whose turn is next, where it has been started; it was told nothing, and is killed when this is dropped.
type Ahead<'a> = Option<Started<'a>>;

/// One verb on one attachment.
struct Step<'a> {
    cni: &'a Cni,
    list: &'a NetworkList,
    command: &'static str,
    attachment: &'a Attachment,
    netns: String,
    args: String,
    turn: Turn,
}

impl<'a> Step<'a> {
    /// `turn` is the attachment's, or nobody's for a verb without one.
    fn new(
        (cni, turn): (&'a Cni, &Turn),
        list: &'a NetworkList,
        command: &'static str,
        attachment: &'a Attachment,
    ) -> Self {
        let args: Vec<String> = attachment
            .args
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        Self {
            cni,
            list,
            command,
            attachment,
            netns: living(attachment.netns.as_deref()),
            args: args.join(";"),
            turn: turn.clone(),
        }
    }

    fn invocation(&'a self, plugins: &'a [PluginConf]) -> Invocation<'a> {
        Invocation {
            plugins,
            network: &self.list.name,
            command: self.command,
            container_id: &self.attachment.container_id,
            netns: &self.netns,
            ifname: &self.attachment.ifname,
            args: &self.args,
            bin_dirs: &self.cni.options.bin_dirs,
            timeout: self.cni.options.timeout,
            turn: self.turn.clone(),
            sockets: &self.cni.sockets,
        }
    }

    fn conf(&self, plugin: &PluginConf, previous: Option<&Value>) -> Value {
        conf_of(self.list, plugin, previous, &self.attachment.capabilities)
    }

    /// Runs one plugin; what it printed.
    async fn plugin(&self, plugin: &PluginConf, previous: Option<&Value>) -> Result<Vec<u8>, Error> {
        let started = exec::start(self.invocation(std::slice::from_ref(plugin)))?;
        started
            .finish(self.conf(plugin, previous).to_string().as_bytes(), || ())
            .await
    }

    /// Which of `plugins` are one process together: ours that follow one another.
    fn processes<'p>(&self, plugins: &'p [PluginConf]) -> Vec<&'p [PluginConf]> {
        let ours = |plugin: &PluginConf| exec::ours(&plugin.plugin, &self.list.name, &self.cni.options.bin_dirs);
        // Of the first of a chunk it is asked once more than needed; a list has two or three.
        let together = |one: &PluginConf, next: &PluginConf| ours(one).is_some_and(|path| ours(next) == Some(path));
        plugins.chunk_by(together).collect()
    }

    /// Starts a process that waits to be told what to do. Where it cannot be started now, its turn will say why.
    fn ahead(&'a self, process: Option<&'a [PluginConf]>) -> Ahead<'a> {
        let process = process?;
        let first = &process.first()?.plugin;
        exec::ours(first, &self.list.name, &self.cni.options.bin_dirs)?;
        exec::start(self.invocation(process)).ok()
    }

    /// Runs one process, which may have been started, with its configuration. `next` is started when this one has been
    /// told what to do and works: earlier, its start would take the processor from it.
    async fn in_turn(
        &'a self,
        ahead: &mut Ahead<'a>,
        process: &'a [PluginConf],
        next: Option<&'a [PluginConf]>,
        conf: Value,
    ) -> Result<Vec<u8>, Error> {
        let started = match ahead.take() {
            Some(started) => started,
            None => exec::start(self.invocation(process))?,
        };
        started
            .finish(conf.to_string().as_bytes(), || *ahead = self.ahead(next))
            .await
    }

    /// ADD of every plugin; the last result, as it came and as it is understood.
    async fn add(
        &'a self,
        processes: &'a [&'a [PluginConf]],
        mut ahead: Ahead<'a>,
    ) -> Result<(Value, AddResult), Error> {
        let mut last = None;
        for (at, process) in processes.iter().enumerate() {
            let previous = last.as_ref().map(|(value, _)| value);
            // Within a process each hands its result to the next.
            let confs = process
                .iter()
                .enumerate()
                .map(|(at, plugin)| self.conf(plugin, previous.filter(|_| at == 0)));
            let next = processes.get(at + 1).copied();
            let stdout = self.in_turn(&mut ahead, process, next, one_or_many(confs)).await?;
            let rubbish = |why: &dyn std::fmt::Display| self.invocation(process).rubbish(why, &stdout);
            let value: Value = serde_json::from_slice(&stdout).map_err(|e| rubbish(&format!("no JSON ({e})")))?;
            let result = AddResult::from_value(&value, self.list.version).map_err(|e| rubbish(&e))?;
            // What the next plugin gets is in the version that the network asks for.
            let value = if result.version == self.list.version && value.get("cniVersion").is_some() {
                value
            } else {
                result.to_value(self.list.version).map_err(|e| rubbish(&e))?
            };
            last = Some((value, result));
        }
        last.ok_or_else(|| Error::Attachment(format!("network {:?} has no plugins", self.list.name)))
    }

    /// DEL of every plugin, backwards.
    async fn del(&self, result: Option<&Value>) -> Result<(), Error> {
        let previous = result.filter(|_| self.list.version >= Version::CHECK);
        let backwards: Vec<PluginConf> = self.list.plugins.iter().rev().cloned().collect();
        let processes = self.processes(&backwards);
        let mut ahead = None;
        for (at, process) in processes.iter().enumerate() {
            let confs = process.iter().map(|plugin| self.conf(plugin, previous));
            let next = processes.get(at + 1).copied();
            self.in_turn(&mut ahead, process, next, one_or_many(confs)).await?;
        }
        Ok(())
    }
}

/// What a process is told: the configuration of its plugin, or an array of those of several.
fn one_or_many(confs: impl Iterator<Item = Value>) -> Value {
    let mut confs: Vec<Value> = confs.collect();
    match confs.pop() {
        Some(only) if confs.is_empty() => only,
        last => {
            confs.extend(last);
            Value::Array(confs)
        }
    }
}

impl Cni {
    /// Whether pods can be attached now: a configuration, its plugins installed and, from CNI
    /// 1.1 on, each of them ready by its own word.
    ///
    /// # Errors
    /// Why not.
    pub async fn status(&self) -> Result<(), Error> {
        let network = self.configured()?;
        self.installed(&network.list)?;
        if network.list.version >= Version::STATUS {
            let nobody = Attachment::default();
            let step = Step::new((self, &Turn::default()), &network.list, "STATUS", &nobody);
            for plugin in &network.list.plugins {
                step.plugin(plugin, None).await?;
            }
        }
        Ok(())
    }

    /// Whether every plugin of a list is there. One that is missing can neither add nor delete: where it is asked
    /// last, what those before it gave (an address, a bridge port) could not be given back until it is installed.
    fn installed(&self, list: &NetworkList) -> Result<(), Error> {
        list.plugins
            .iter()
            .try_for_each(|plugin| exec::find(&plugin.plugin, &list.name, &self.options.bin_dirs).map(drop))
    }

    /// Attaches a pod to the network. When any plugin fails, what was done is undone by DEL.
    ///
    /// # Errors
    /// The failure of the plugin, or of the undo as well; then DEL can be repeated by [`Cni::del`].
    pub async fn add(&self, attachment: &Attachment) -> Result<AddResult, Error> {
        self.add_when(attachment, std::future::ready(Ok(()))).await
    }

    /// As [`Cni::add`], to a network namespace that `ready` makes: what can be done without it is done meanwhile.
    ///
    /// # Errors
    /// What `ready` fails with, when no plugin has been told anything; else as [`Cni::add`].
    pub async fn add_when<E: From<Error>>(
        &self,
        attachment: &Attachment,
        ready: impl Future<Output = Result<(), E>>,
    ) -> Result<AddResult, E> {
        check_names(attachment)?;
        let turn = self.turns.take(&attachment.container_id, &attachment.ifname).await;
        let network = self.configured()?;
        let cache = self.cache();
        let mut step = Step::new((self, &turn), &network.list, "ADD", attachment);
        let path = attachment.netns.as_deref().unwrap_or(Path::new(""));
        step.netns = path.display().to_string();
        self.installed(&network.list)?;
        let processes = step.processes(&network.list.plugins);
        // `ready` first: what it asks of others is done while the first plugin is started here.
        let (ready, (ahead, recorded)) = tokio::join!(ready, async {
            (
                step.ahead(processes.first().copied()),
                cache.put(&network.list, attachment, None),
            )
        });
        let is_there = || {
            if living(Some(path)).is_empty() {
                return Err(Error::Attachment(format!(
                    "{:?} is no network namespace",
                    path.display()
                )));
            }
            recorded
        };
        if let Err(error) = ready.and_then(|()| is_there().map_err(E::from)) {
            // A record that stays is taken for an attachment, which DEL and GC undo.
            drop(cache.remove(&network.list.name, attachment));
            return Err(error);
        }
        let failed = match step.add(&processes, ahead).await {
            Ok((value, result)) => match cache.put(&network.list, attachment, Some(value)) {
                Ok(()) => return Ok(result),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let undo = Step::new((self, &turn), &network.list, "DEL", attachment);
        match undo
            .del(None)
            .await
            .and_then(|()| cache.remove(&network.list.name, attachment))
        {
            Ok(()) => Err(failed.into()),
            Err(second) => Err(Error::NotUndone {
                first: Box::new(failed),
                second: Box::new(second),
            }
            .into()),
        }
    }

    /// Detaches a pod. May be repeated, and called for what was never attached.
    ///
    /// # Errors
    /// When a plugin fails; the record stays, and so does what that plugin holds.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        check_names(attachment)?;
        let turn = self.turns.take(&attachment.container_id, &attachment.ifname).await;
        let recorded = self.cache().find(&attachment.container_id, &attachment.ifname);
        if recorded.is_empty() {
            // A record precedes every ADD: without one nothing was attached by us. DEL by the
            // configuration of now, in case the record was lost; without any, there is none.
            let Some(network) = self.network() else { return Ok(()) };
            return Step::new((self, &turn), &network.list, "DEL", attachment)
                .del(None)
                .await;
        }
        for cached in recorded {
            self.del_recorded(&cached, attachment.netns.as_deref(), &turn).await?;
        }
        Ok(())
    }

    async fn del_recorded(&self, cached: &Cached, netns: Option<&Path>, turn: &Turn) -> Result<(), Error> {
        let mut attachment = cached.attachment.clone();
        if netns.is_some() {
            attachment.netns = netns.map(Path::to_owned);
        }
        Step::new((self, turn), &cached.list, "DEL", &attachment)
            .del(cached.result.as_ref())
            .await?;
        self.cache().remove(&cached.network, &attachment)
    }

    /// Asks every plugin whether what ADD made is still there.
    ///
    /// # Errors
    /// When it is not, when nothing was recorded, or when the network's version has no CHECK.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        check_names(attachment)?;
        let turn = self.turns.take(&attachment.container_id, &attachment.ifname).await;
        let recorded = self.cache().find(&attachment.container_id, &attachment.ifname);
        let with_result = recorded
            .into_iter()
            .find_map(|cached| cached.result.clone().map(|result| (cached, result)));
        let Some((cached, result)) = with_result else {
            let text = format!(
                "nothing is attached as {} to {}",
                attachment.ifname, attachment.container_id
            );
            return Err(Error::Attachment(text));
        };
        let list = &cached.list;
        if list.version < Version::CHECK {
            return Err(Error::Version {
                network: list.name.clone(),
                version: list.version,
                command: "CHECK",
            });
        }
        if list.disable_check {
            return Ok(());
        }
        let mut current = cached.attachment.clone();
        current.netns = attachment.netns.clone().or(current.netns);
        let step = Step::new((self, &turn), list, "CHECK", &current);
        for plugin in &list.plugins {
            step.plugin(plugin, Some(&result)).await?;
        }
        Ok(())
    }

    /// Detaches every recorded attachment that is not in `valid` (container, interface), then
    /// asks the plugins (CNI 1.1) to drop what belongs to none of them. Everything is tried.
    ///
    /// # Errors
    /// The first failure.
    pub async fn gc(&self, valid: &[(String, String)]) -> Result<(), Error> {
        let mut first = Ok(());
        let mut note = |result: Result<(), Error>| {
            if first.is_ok() {
                first = result;
            }
        };
        let is_valid = |attachment: &Attachment| {
            valid
                .iter()
                .any(|(container, ifname)| (container, ifname) == (&attachment.container_id, &attachment.ifname))
        };
        // Of hundreds of pods that are there, no record is read: only those of others are of interest.
        let known: HashSet<String> = self
            .network()
            .iter()
            .flat_map(|network| {
                valid
                    .iter()
                    .map(|(id, ifname)| Cache::name(&network.list.name, id, ifname))
            })
            .collect();
        for cached in self
            .cache()
            .all_but(&known)
            .into_iter()
            .filter(|cached| !is_valid(&cached.attachment))
        {
            if cached.list.disable_gc {
                continue;
            }
            let (container_id, ifname) = (&cached.attachment.container_id, &cached.attachment.ifname);
            let turn = self.turns.take(container_id, ifname).await;
            // Somebody may have detached it while we waited.
            for cached in self.cache().find(container_id, ifname) {
                note(self.del_recorded(&cached, None, &turn).await);
            }
        }
        if let Some(network) = self.network() {
            note(self.gc_plugins(network, valid).await);
        }
        first
    }

    async fn gc_plugins(&self, network: Arc<crate::Network>, valid: &[(String, String)]) -> Result<(), Error> {
        let list = &network.list;
        if list.version < Version::STATUS || list.disable_gc {
            return Ok(());
        }
        let attachments: Vec<Value> = valid
            .iter()
            .map(|(container, ifname)| json!({ "containerID": container, "ifname": ifname }))
            .collect();
        let nobody = Attachment::default();
        let step = Step::new((self, &Turn::default()), list, "GC", &nobody);
        let mut first = Ok(());
        for plugin in &list.plugins {
            let mut plugin = plugin.clone();
            // Two names: the specification had one, libcni wrote another for a while.
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                plugin.raw.insert(key.to_owned(), json!(attachments));
            }
            let result = step.plugin(&plugin, None).await.map(drop);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}
