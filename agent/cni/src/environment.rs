//! The variables that a runtime sets.

use std::path::{Path, PathBuf};

use crate::{
    attachment::{AttachmentKey, PodName},
    error::CniError,
    excerpt::excerpt,
};

/// Where variables come from: the process's environment, or a test.
pub trait Variables {
    /// A variable's value; `None` if it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

/// Variables by a function.
#[derive(Clone, Copy, Debug)]
pub struct VariablesOf<F>(pub F);

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Delete,
    Check,
    Version,
}

/// A pod, as its runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: PodName,
    pub(crate) uid: String,
}

/// The longest path that is taken, as Linux has it.
const MAX_PATH: usize = 4_096;
/// The longest uid that is taken: Kubernetes' have 36 characters.
const MAX_UID: usize = 128;

impl<F: Fn(&str) -> Option<String>> Variables for VariablesOf<F> {
    fn get(&self, name: &str) -> Option<String> {
        self.0(name)
    }
}

impl Command {
    pub(crate) fn read(variables: &impl Variables) -> Result<Self, CniError> {
        match required(variables, "CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Delete),
            "CHECK" => Ok(Self::Check),
            "VERSION" => Ok(Self::Version),
            other => Err(invalid(
                "CNI_COMMAND",
                format!("{:?} is none of ADD, DEL, CHECK, VERSION", excerpt(other)),
            )),
        }
    }
}

/// The container and its interface.
pub(crate) fn key(variables: &impl Variables) -> Result<AttachmentKey, CniError> {
    let container = required(variables, "CNI_CONTAINERID")?;
    let interface = required(variables, "CNI_IFNAME")?;
    AttachmentKey::check_container(&container).map_err(|e| invalid("CNI_CONTAINERID", e))?;
    AttachmentKey::check_interface(&interface).map_err(|e| invalid("CNI_IFNAME", e))?;
    AttachmentKey::new(&container, &interface).map_err(|e| invalid("CNI_CONTAINERID", e))
}

/// The file that is the pod's network namespace.
pub(crate) fn netns(variables: &impl Variables) -> Result<PathBuf, CniError> {
    let path = required(variables, "CNI_NETNS")?;
    if path.len() > MAX_PATH || path.contains('\0') || !Path::new(&path).is_absolute() {
        return Err(invalid(
            "CNI_NETNS",
            format!("{:?} is not the absolute path of a file", excerpt(&path)),
        ));
    }
    Ok(path.into())
}

/// The pod, from `CNI_ARGS`: pairs like `K8S_POD_NAME=web-0`, separated by semicolons; other pairs are ignored.
pub(crate) fn pod(variables: &impl Variables) -> Result<Pod, CniError> {
    let text = required(variables, "CNI_ARGS")?;
    let value = |key: &str| {
        let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back()
    };
    let needed = |key: &str| {
        let value = value(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            invalid("CNI_ARGS", format!("no {key}: this plugin attaches Kubernetes' pods"))
        })
    };
    let (namespace, name) = (needed("K8S_POD_NAMESPACE")?, needed("K8S_POD_NAME")?);
    let name = PodName::new(namespace, name).map_err(|e| invalid("CNI_ARGS", e))?;
    let uid = value("K8S_POD_UID").unwrap_or_default();
    if uid.len() > MAX_UID || uid.chars().any(char::is_control) {
        return Err(invalid("CNI_ARGS", format!("K8S_POD_UID {:?} is no uid", excerpt(uid))));
    }
    Ok(Pod { name, uid: uid.into() })
}

fn required(variables: &impl Variables, name: &'static str) -> Result<String, CniError> {
    let value = variables.get(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| invalid(name, "it is not set"))
}

fn invalid(variable: &'static str, reason: impl ToString) -> CniError {
    CniError::Environment { variable, reason: reason.to_string() }
}
