//! The task that reads the folder of attachments.

use std::{path::PathBuf, time::Duration};

use mesh_cni::{Attachment, AttachmentKey};
use mesh_files::FolderWatch;
use mesh_model::Identity;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{AttachmentFound, Attachments, PodNetns, namespaces::Namespaces};

/// The answer to a caller that asks for an attachment's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodAnswer {
    /// The pod has this identity.
    Bound(Identity),
    /// There is no such attachment.
    NotAttached,
}

/// The result of a scan of the folder.
#[derive(Debug)]
pub struct AttachmentsRead {
    /// The attachments.
    pub found: Vec<AttachmentFound>,
    /// All there are.
    pub complete: bool,
    /// All namespaces with addresses that the container runtime has, if they are others than before: those of the
    /// attachments, and those of pods without one.
    pub namespaces: Option<Vec<PodNetns>>,
    /// Errors of the folder, or of files in it.
    pub problems: Vec<String>,
    /// A caller waits for the identity of one.
    pub waiter: Option<(AttachmentKey, oneshot::Sender<PodAnswer>)>,
}

/// Looks at the folder of attachments when it changes, when a caller asks for one of them, and keeps identities there for the
/// next run. Looks at the folder of network namespaces when it changes, and while one has no address yet. A pod that was attached while the agent was away left a file there.
#[derive(Debug)]
pub struct AttachmentsTask<M> {
    folder: PathBuf,
    attachments: Attachments,
    namespaces: Namespaces,
    looks: mpsc::Receiver<Look>,
    /// Identities to be kept for the next run.
    remember: mpsc::UnboundedReceiver<(Attachment, Identity)>,
    messages: mpsc::Sender<M>,
}

/// A caller asks for the identity of an attachment.
#[derive(Debug)]
pub struct Look {
    /// Which attachment.
    pub key: AttachmentKey,
    /// Where the answer goes.
    pub answer: oneshot::Sender<PodAnswer>,
}

/// How often namespaces are looked at while one has no address.
const INCOMPLETE: Duration = Duration::from_secs(1);
/// Callers that may wait for the task.
const LOOKS: usize = 64;

/// Waits for a change of the folder, or a second while a namespace is incomplete.
async fn look_again(folder: &mut FolderWatch, is_incomplete: bool) {
    match is_incomplete {
        true => {
            let _ = timeout(INCOMPLETE, folder.changed()).await;
        }
        false => folder.changed().await,
    }
}

// === impl AttachmentsTask ===

impl<M: From<AttachmentsRead>> AttachmentsTask<M> {
    /// The task, and how to ask it.
    pub fn new(
        folder: PathBuf,
        netns_folder: PathBuf,
        remember: mpsc::UnboundedReceiver<(Attachment, Identity)>,
        messages: mpsc::Sender<M>,
    ) -> (Self, mpsc::Sender<Look>) {
        let (sender, looks) = mpsc::channel(LOOKS);
        let attachments = Attachments::new(folder.clone());
        let namespaces = Namespaces::new(netns_folder);
        (Self { folder, attachments, namespaces, looks, remember, messages }, sender)
    }

    /// Reads until the receiver of the results is dropped.
    pub async fn run(mut self) {
        let mut folder = FolderWatch::shallow(&self.folder);
        let mut netns_folder = FolderWatch::shallow(self.namespaces.folder());
        self.namespaces.scan();
        let mut namespaces = Some(self.namespaces.found());
        // Before it waits: a pod may have been attached since the last run.
        let (mut found, mut complete, mut waiter) = (self.attachments.scan(), true, None);
        loop {
            let problems = self.attachments.problems().cloned().collect();
            let read = AttachmentsRead {
                found,
                complete,
                namespaces: namespaces.take(),
                problems,
                waiter,
            };
            if self.messages.send(read.into()).await.is_err() {
                return;
            }
            (found, complete, waiter) = loop {
                tokio::select! {
                    () = look_again(&mut netns_folder, self.namespaces.is_incomplete()) => {
                        if self.namespaces.scan() {
                            namespaces = Some(self.namespaces.found());
                            break (Vec::new(), false, None);
                        }
                    }
                    () = folder.changed() => break (self.attachments.scan(), true, None),
                    Some(Look { key, answer }) = self.looks.recv() => {
                        break (vec![self.attachments.look(&key)], false, Some((key, answer)));
                    }
                    Some((attachment, identity)) = self.remember.recv() => {
                        if let Err(error) = self.attachments.remember(&attachment, identity) {
                            let key = &attachment.key;
                            tracing::warn!(%key, %error, "its identity cannot be kept for the next run");
                        }
                    }
                }
            };
        }
    }
}
