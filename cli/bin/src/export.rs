//! `clustermesh export`: computes the etcd keys of objects in files.

use std::mem::ManuallyDrop;

use mesh_labels::LabelFilter;
use mesh_model::{ClusterId, ClusterLimit};
use mesh_offline::{Cluster, ClusterSetup, Objects, settings_beside};
use mesh_source::cluster_directory::ClusterSettings;

use crate::{
    args::{ExportArgs, SetupArgs},
    outcome::{Outcome, complain, warn},
    output,
};

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let ExportArgs { objects: path, cluster, id, local, options } = args;
    let limit = options.max_connected_clusters;
    let id = ClusterId::new(*id, limit.unwrap_or(ClusterLimit::Max511))?;
    let settings = options.over(settings_beside(
        path,
        cluster,
        Some(id),
        limit,
        (id, ClusterLimit::default()),
    )?);
    let objects = Objects::read(path)?;
    let exporting =
        Cluster::new(setup(&settings, options)?, objects.objects).with_drain(objects.drain);
    // Freeing the memory of a large cluster would take a tenth of the whole time, and the process ends anyway.
    let exporting = ManuallyDrop::new(exporting);
    let file = if *local { exporting.all_keys_file() } else { exporting.keys_file() };
    output::value(&file)?;
    objects.notes.iter().map(ToString::to_string).chain(exporting.notes()).for_each(warn);
    let problems = objects.problems.iter().map(ToString::to_string);
    Ok(complain(problems.chain(exporting.problems())))
}

/// The setup of an apiserver with these settings and flags.
pub(crate) fn setup(
    settings: &ClusterSettings,
    options: &SetupArgs,
) -> anyhow::Result<ClusterSetup> {
    let filter = LabelFilter::new(options.identity_labels.iter().map(String::as_str))?;
    Ok(ClusterSetup::new(settings, filter))
}

impl SetupArgs {
    /// The settings, changed by the flags.
    pub(crate) fn over(&self, settings: ClusterSettings) -> ClusterSettings {
        ClusterSettings {
            default_global_namespace: self
                .default_global_namespace
                .unwrap_or(settings.default_global_namespace),
            ..settings
        }
    }
}
