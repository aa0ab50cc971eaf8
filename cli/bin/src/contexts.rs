//! Finds the clusters of contexts.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, bail};
use mesh_lab::{
    Lab, LabState,
    contexts::{AgentSocket, Context, Contexts, of_lab},
};

use crate::{
    kube_context::{self, Kubernetes},
    kube_exec::{Cluster, KubeContexts},
};

/// The variable that names a contexts file.
const CONTEXTS: &str = "CLUSTERMESH_CONTEXTS";
/// The variable that names a lab.
const LAB: &str = "CLUSTERMESH_LAB";
/// The sockets of the daemons of a host without contexts.
const APISERVER: &str = "/run/clustermesh/apiserver.sock";
const AGENT: &str = "/run/clustermesh/agent.sock";
/// The cluster directory of such a host.
const DIRECTORY: &str = "/etc/clustermesh";

/// The limit of an answer of a daemon, in bytes: there may be 100,000 identities.
pub(crate) const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The settings from which the contexts follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// From flags.
    flags: Named,
    /// From variables; flags take precedence.
    variables: Named,
    /// How contexts of a kubeconfig are reached.
    kubernetes: Kubernetes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    contexts: Option<PathBuf>,
    lab: Option<String>,
}

/// The source of the contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A contexts file.
    File(PathBuf),
    /// A lab's contexts file.
    Lab(String),
    /// The current context of a kubeconfig.
    Kubeconfig(String),
    /// No file: the daemons of this host.
    ThisHost,
}

/// Where the context of a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// In the contexts file.
    File,
    Kubeconfig,
}

/// Global, since commands use it deep in their calls.
static CHOICE: OnceLock<Choice> = OnceLock::new();

/// Stores the flags, and reads the variables. Only the first call has an effect.
pub(crate) fn choose(contexts: Option<PathBuf>, lab: Option<String>, kubernetes: Kubernetes) {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let variables = Named {
        contexts: variable(CONTEXTS).map(PathBuf::from),
        lab: variable(LAB).map(|lab| lab.to_string_lossy().into_owned()),
    };
    let _ = CHOICE.set(Choice { flags: Named { contexts, lab }, variables, kubernetes });
}

/// The source of the contexts. Fails if it is ambiguous.
pub(crate) fn origin() -> anyhow::Result<Origin> {
    let choice = choice();
    choice.origin(&Lab::all(), || otherwise(has_mesh(), &choice.kubeconfig().unwrap_or_default()))
}

/// Whether this host has a cluster directory, or its daemons run.
fn has_mesh() -> bool {
    [DIRECTORY, APISERVER, AGENT].into_iter().any(|path| Path::new(path).exists())
}

/// The source of the contexts if nothing names one.
fn otherwise(has_mesh: bool, kubeconfig: &KubeContexts) -> Origin {
    match &kubeconfig.current {
        Some(current) if !has_mesh => Origin::Kubeconfig(current.clone()),
        _ => Origin::ThisHost,
    }
}

/// The running lab that a command is about.
pub(crate) fn lab() -> anyhow::Result<String> {
    choice().lab(&Lab::all())
}

/// The lab that a flag or a variable names, whether it is up or not.
pub(crate) fn named_lab() -> Option<String> {
    let Choice { flags, variables, .. } = choice();
    flags.lab.or(variables.lab)
}

/// The lab that the contexts belong to, if they are a lab's.
pub(crate) fn lab_of(origin: &Origin) -> anyhow::Result<Option<String>> {
    let Some(file) = origin.file()? else { return Ok(None) };
    let is_its = |lab: &String| of_lab(lab).is_ok_and(|of_lab| of_lab == file);
    Ok(Lab::all().into_iter().find(is_its))
}

/// The state of the lab whose contexts are asked, if they are one's.
pub(crate) fn lab_state() -> Option<LabState> {
    Lab::peek(&lab_of(&origin().ok()?).ok()??).ok()
}

/// A text with commands to run: they name the lab that a flag named, where there are others.
pub(crate) fn hint(text: &str) -> String {
    choice().hint(text, &Lab::all())
}

/// All contexts of the source; none on a host without a contexts file, a lab or a kubeconfig.
pub(crate) fn all() -> anyhow::Result<Vec<Context>> {
    match origin()? {
        Origin::Kubeconfig(name) => Ok(vec![choice().kubernetes.context(&name)?]),
        origin => in_file(&origin),
    }
}

fn in_file(origin: &Origin) -> anyhow::Result<Vec<Context>> {
    let Some(file) = origin.file()? else { return Ok(Vec::new()) };
    let read =
        Contexts::read(&file).with_context(|| format!("contexts file {}", file.display()))?;
    Ok(read.contexts)
}

/// One context by its name, in the contexts file or in the kubeconfig; or the cluster directory at a path with a slash. A
/// name that occurs twice is an error.
pub(crate) fn find(name: &str) -> anyhow::Result<Context> {
    let choice = choice();
    // A kubeconfig that cannot be read does not stop those who need none.
    let kubeconfig = choice.kubeconfig();
    let is_in_kubeconfig =
        kubeconfig.as_ref().is_ok_and(|found| found.names.iter().any(|other| other == name));
    if name.contains('/') {
        // Some clouds name contexts with slashes.
        return match is_in_kubeconfig && !Path::new(name).exists() {
            true => choice.kubernetes.context(name),
            false => Ok(of_directory(Path::new(name))),
        };
    }
    let found = match origin() {
        Ok(origin) => in_file(&origin)?,
        // Which of several labs is no question then.
        Err(_) if is_in_kubeconfig => Vec::new(),
        Err(error) => return Err(error),
    };
    let known: Vec<&str> = found.iter().map(|context| context.name.as_str()).collect();
    let places: Vec<&Path> = found
        .iter()
        .filter(|context| context.name == name)
        .map(|context| context.directory.as_path())
        .collect();
    match choice.which(name, &places, &known, kubeconfig)? {
        Which::File => found.into_iter().find(|context| context.name == name).context("no context"),
        Which::Kubeconfig => choice.kubernetes.context(name),
    }
}

/// The cluster of a context that is a kubeconfig's.
///
/// # Errors
/// The context is not in the kubeconfig any more.
pub(crate) fn cluster_of(context: &Context) -> anyhow::Result<Option<Cluster>> {
    kube_context::name_of(context).map(|name| choice().kubernetes.cluster(name)).transpose()
}

/// The source of a context that was found by its name.
pub(crate) fn origin_of(context: &Context) -> anyhow::Result<Origin> {
    match (kube_context::name_of(context), origin()) {
        (Some(name), _) => Ok(Origin::Kubeconfig(name.to_owned())),
        (None, Ok(origin)) if in_file(&origin)?.contains(context) => Ok(origin),
        (None, _) => Ok(Origin::ThisHost),
    }
}

/// Refuses a context of a kubeconfig for a command that needs the cluster directory. `instead`: what to do.
pub(crate) fn need_directory(context: &Context, instead: &str) -> anyhow::Result<()> {
    match kube_context::name_of(context) {
        Some(name) => bail!(
            "{name} is a context of a kubeconfig, and this needs a cluster directory: {instead}"
        ),
        None => Ok(()),
    }
}

/// The flags by which another process of this program reaches the same clusters of kubeconfigs.
pub(crate) fn kubernetes_flags() -> Vec<String> {
    let Kubernetes { file, namespace } = choice().kubernetes;
    let file = file.map(|file| ["--kubeconfig".to_owned(), file.display().to_string()]);
    let namespace = ["--mesh-namespace".to_owned(), namespace];
    file.into_iter().flatten().chain(namespace).collect()
}

/// The named context, or all contexts, or the local cluster of a host without contexts.
pub(crate) fn find_or_all(name: Option<&str>) -> anyhow::Result<Vec<Context>> {
    match name {
        Some(name) => Ok(vec![find(name)?]),
        None => {
            let contexts = all()?;
            let own = || vec![of_directory(Path::new(DIRECTORY))];
            Ok(if contexts.is_empty() { own() } else { contexts })
        }
    }
}

/// The agents of a cluster, or only that of a node.
pub(crate) fn agents_of<'a>(
    context: &'a Context,
    node: Option<&str>,
) -> anyhow::Result<Vec<&'a AgentSocket>> {
    let wanted = |agent: &&AgentSocket| node.is_none_or(|node| node == agent.node);
    let agents: Vec<&AgentSocket> = context.agents.iter().filter(wanted).collect();
    if context.agents.is_empty() {
        bail!("{} has no agents", context.name);
    }
    if agents.is_empty() {
        let nodes: Vec<&str> = context.agents.iter().map(|a| a.node.as_str()).collect();
        bail!("{} has no such node; it has: {}", context.name, nodes.join(", "));
    }
    Ok(agents)
}

fn choice() -> Choice {
    CHOICE.get().cloned().unwrap_or_default()
}

fn of_directory(directory: &Path) -> Context {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    Context {
        name: name.unwrap_or_default(),
        directory: directory.into(),
        apiserver: APISERVER.into(),
        replicas: Vec::new(),
        agents: vec![AgentSocket { node: "this node".into(), socket: AGENT.into() }],
        netns: None,
    }
}

// === impl Choice ===

impl Choice {
    /// The contexts of the kubeconfig.
    fn kubeconfig(&self) -> anyhow::Result<KubeContexts> {
        KubeContexts::read(self.kubernetes.file.as_deref())
    }

    /// Where the context of a name is. `places`: those of this name in the contexts file; `known`: all names in it.
    fn which(
        &self,
        name: &str,
        places: &[&Path],
        known: &[&str],
        kubeconfig: anyhow::Result<KubeContexts>,
    ) -> anyhow::Result<Which> {
        let is_there = |found: &KubeContexts| found.names.iter().any(|other| other == name);
        let is_in_kubeconfig = kubeconfig.as_ref().is_ok_and(is_there);
        // A flag decides.
        let Named { contexts, lab } = &self.flags;
        let by_flag = contexts.is_some() || lab.is_some();
        match (places, is_in_kubeconfig && !by_flag) {
            ([], _) if is_in_kubeconfig => Ok(Which::Kubeconfig),
            ([_], false) => Ok(Which::File),
            ([place], true) => bail!(
                "there are two contexts {name:?}: {} and one in the kubeconfig. Give one another name (kubectl config rename-context), or name the contexts file with --contexts",
                place.display()
            ),
            ([], _) => {
                let of_kubeconfig = kubeconfig?.names;
                let known = known.iter().copied().chain(of_kubeconfig.iter().map(String::as_str));
                let known: Vec<&str> = known.collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                bail!(
                    "there is no context {name:?} (known: {known}). Name a context of the kubeconfig, a cluster directory (with a slash), a contexts file with --contexts or {CONTEXTS}, or start a lab with `clustermesh lab up`"
                )
            }
            (several, _) => {
                let places: Vec<String> =
                    several.iter().map(|at| at.display().to_string()).collect();
                bail!(
                    "the contexts file has {} contexts {name:?}: {}. Give each another name",
                    several.len(),
                    places.join(", ")
                )
            }
        }
    }

    /// `--contexts` or `--lab`, else `$CLUSTERMESH_CONTEXTS`, else `$CLUSTERMESH_LAB`, else the only lab that is up, else
    /// what `otherwise` finds.
    fn origin(
        &self,
        labs: &[String],
        otherwise: impl FnOnce() -> Origin,
    ) -> anyhow::Result<Origin> {
        for Named { contexts, lab } in [&self.flags, &self.variables] {
            if let Some(file) = contexts {
                return Ok(Origin::File(file.clone()));
            }
            if let Some(lab) = lab {
                return Ok(Origin::Lab(up(lab, labs)?));
            }
        }
        match labs {
            [] => Ok(otherwise()),
            [only] => Ok(Origin::Lab(only.clone())),
            several => bail!(too_many(several)),
        }
    }

    /// A variable applies to the next command too, but a flag does not.
    fn hint(&self, text: &str, labs: &[String]) -> String {
        match &self.flags.lab {
            Some(lab) if labs.len() > 1 && !text.contains("--lab") => {
                text.replace("clustermesh ", &format!("clustermesh --lab {lab} "))
            }
            _ => text.to_owned(),
        }
    }

    /// `--lab`, else `$CLUSTERMESH_LAB`, else the only lab that is up.
    fn lab(&self, labs: &[String]) -> anyhow::Result<String> {
        match (self.flags.lab.as_ref().or(self.variables.lab.as_ref()), labs) {
            (Some(lab), _) => up(lab, labs),
            (None, [only]) => Ok(only.clone()),
            (None, []) => bail!("no lab is up. Start one with `clustermesh lab up`"),
            (None, several) => bail!(too_many(several)),
        }
    }
}

fn up(lab: &str, labs: &[String]) -> anyhow::Result<String> {
    if labs.iter().any(|other| other == lab) {
        return Ok(lab.into());
    }
    let up = match labs {
        [] => "no lab is up".to_owned(),
        labs => format!("up: {}", labs.join(", ")),
    };
    bail!("there is no lab {lab:?} ({up}). Start it with `clustermesh lab up --lab {lab}`")
}

fn too_many(labs: &[String]) -> String {
    format!("{} labs are up: {}; set {LAB} or --lab", labs.len(), labs.join(", "))
}

// === impl Origin ===

impl Origin {
    /// The contexts file, if there is one.
    pub(crate) fn file(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self {
            Self::File(file) => Some(file.clone()),
            Self::Lab(lab) => Some(of_lab(lab)?),
            Self::Kubeconfig(_) | Self::ThisHost => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For flags, variables and running labs: the source of the contexts, or the error.
    #[test]
    fn contexts_are_from_one_place() {
        let named = |contexts: &str, lab: &str| Named {
            contexts: Some(contexts).filter(|file| !file.is_empty()).map(PathBuf::from),
            lab: Some(lab).filter(|lab| !lab.is_empty()).map(str::to_owned),
        };
        let file = |file: &str| Ok(Origin::File(file.into()));
        let lab = |lab: &str| Ok(Origin::Lab(lab.into()));
        let none = ("", "");
        for (flags, variables, labs, wanted) in [
            (("f", ""), ("v", "nc"), &["nc", "demo"][..], file("f")),
            (("", "demo"), ("v", "nc"), &["nc", "demo"], lab("demo")),
            (none, ("v", "nc"), &["nc", "demo"], file("v")),
            (none, ("", "nc"), &["nc", "demo"], lab("nc")),
            (none, ("", "nosuch"), &["nc", "demo"], Err("no lab \"nosuch\" (up: nc, demo)")),
            (("", "nosuch"), none, &[], Err("no lab \"nosuch\" (no lab is up)")),
            (none, none, &["nc"], lab("nc")),
            (none, none, &[], Ok(Origin::ThisHost)),
            (
                none,
                none,
                &["bench", "demo", "nc"],
                Err("3 labs are up: bench, demo, nc; set CLUSTERMESH_LAB or --lab"),
            ),
        ] {
            let choice = Choice {
                flags: named(flags.0, flags.1),
                variables: named(variables.0, variables.1),
                ..Choice::default()
            };
            let labs: Vec<String> = labs.iter().map(ToString::to_string).collect();
            match (
                choice.origin(&labs, || Origin::ThisHost).map_err(|error| error.to_string()),
                wanted,
            ) {
                (Err(found), Err(wanted)) => assert!(found.contains(wanted), "{found}"),
                (found, wanted) => assert_eq!(found, wanted.map_err(str::to_owned), "{choice:?}"),
            }
        }
    }

    /// A name is looked for in the contexts file and in the kubeconfig.
    #[test]
    fn a_name_is_in_one_place() {
        let kubeconfig = || Ok(KubeContexts { names: vec!["a".into(), "k".into()], current: None });
        let flags = Named { contexts: Some("f".into()), lab: None };
        let (plain, by_flag) = (Choice::default(), Choice { flags, ..Choice::default() });
        let (one, two) = (&[Path::new("/a")][..], &[Path::new("/a"), Path::new("/b")][..]);
        for (choice, name, places, wanted) in [
            (&plain, "b", one, Ok(Which::File)),
            (&plain, "k", &[], Ok(Which::Kubeconfig)),
            (&plain, "a", one, Err("two contexts \"a\": /a and one in the kubeconfig")),
            (&by_flag, "a", one, Ok(Which::File)),
            (&by_flag, "k", &[], Ok(Which::Kubeconfig)),
            (&plain, "b", two, Err("2 contexts \"b\": /a, /b")),
            (&plain, "z", &[], Err("(known: b, a, k)")),
        ] {
            match (choice.which(name, places, &["b"], kubeconfig()), wanted) {
                (Err(found), Err(wanted)) => assert!(found.to_string().contains(wanted), "{found}"),
                (found, wanted) => {
                    assert_eq!(found.map_err(|e| e.to_string()), wanted.map_err(str::to_owned))
                }
            }
        }
        // A kubeconfig that cannot be read matters only for a name that is not found elsewhere.
        let broken = || Err(anyhow::anyhow!("the kubeconfig: broken"));
        assert_eq!(plain.which("b", one, &["b"], broken()).unwrap(), Which::File);
        let error = plain.which("z", &[], &["b"], broken()).unwrap_err();
        assert_eq!(error.to_string(), "the kubeconfig: broken");
    }

    /// The kubeconfig's current context is used on a host that has neither daemons nor a cluster directory.
    #[test]
    fn a_kubeconfig_comes_before_a_host_without_a_mesh() {
        let with = KubeContexts { names: vec!["k".into()], current: Some("k".into()) };
        assert_eq!(otherwise(false, &with), Origin::Kubeconfig("k".into()));
        assert_eq!(otherwise(true, &with), Origin::ThisHost);
        let none = KubeContexts { current: None, ..with };
        assert_eq!(otherwise(false, &none), Origin::ThisHost);
        assert_eq!(otherwise(false, &KubeContexts::default()), Origin::ThisHost);
    }

    #[test]
    fn a_hint_names_the_lab_that_a_flag_named_where_there_are_others() {
        let labs = ["demo", "nc"].map(str::to_owned);
        let of = |flag: Option<&str>| Choice {
            flags: Named { contexts: None, lab: flag.map(str::to_owned) },
            variables: Named { contexts: None, lab: Some("demo".into()) },
            ..Choice::default()
        };
        let text = "it is broken → clustermesh certs rotate --context a";
        let named = "it is broken → clustermesh --lab nc certs rotate --context a";
        assert_eq!(of(Some("nc")).hint(text, &labs), named);
        assert_eq!(of(Some("nc")).hint(named, &labs), named);
        // A variable applies to the next command too, and the only lab needs no name.
        assert_eq!(of(None).hint(text, &labs), text);
        assert_eq!(of(Some("nc")).hint(text, &labs[1..]), text);
    }

    #[test]
    fn a_command_is_about_one_lab() {
        let labs = ["demo", "nc"].map(str::to_owned);
        let of = |lab: Option<&str>| Choice {
            flags: Named { contexts: None, lab: lab.map(str::to_owned) },
            variables: Named { contexts: Some("elsewhere".into()), lab: None },
            ..Choice::default()
        };
        let error = |found: anyhow::Result<String>| found.unwrap_err().to_string();
        assert_eq!(of(Some("nc")).lab(&labs).unwrap(), "nc");
        assert_eq!(of(None).lab(&labs[..1]).unwrap(), "demo");
        assert!(error(of(None).lab(&labs)).starts_with("2 labs are up: demo, nc;"));
        assert!(error(of(None).lab(&[])).contains("lab up"));
        assert!(error(of(Some("x")).lab(&labs)).contains("\"x\""));
    }
}
