//! Making bakes.

mod guest;
mod rehearsal;
mod warm;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use bake::{Bake, DigestError, Draft, Extent, Key, PublishError, Published, Reason, StoreError, Subject};
use vmm_api::Pages;

use crate::blocking::apart;
use crate::disks::{self, DiskError, Places, RootDisks};
use crate::error::{ErrorKind, chain};
use crate::image::{Image, open, subject};
use crate::machine::{Machine, MachineError};
use crate::run_directory::RunDirectory;
use crate::upper::{UpperError, clone_upper};
use crate::vm::StartError;
use crate::vmm::VmmError;
use crate::warm::WarmContainer;
use guest::Guest;
use rehearsal::{RehearsalError, Written};

/// What came of a request for a bake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baked {
    /// The bake's key.
    pub key: Key,
    /// Whether it was there before, and nothing was done.
    pub already_there: bool,
}

/// What is being done about a bake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BakeStep {
    /// A guest boots, and its agent makes it fit to be captured.
    Boot,
    /// The image's layers are read for their digests.
    Read,
    /// A guest is restored, and its agent mounts the layers and reads what programs begin with.
    Restore,
    /// A container starts, and becomes ready.
    Prepare,
    /// It is written out.
    Capture,
    /// It is restored once, to see what every start writes to.
    Rehearse,
    /// Its digests are computed and it gets its name.
    Publish,
}

/// A bake could not be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// Bakes aren't wanted.
    #[error("baking is off (config); set `bake.enabled = true` to make bakes")]
    Off,
    /// The host can't run VMs.
    #[error("this host can't run virtual machines")]
    Machine(#[source] MachineError),
    /// A layer can't be read.
    #[error("a layer of the image can't be read")]
    Layer(#[source] DigestError),
    /// A layer can't be given to a VM.
    #[error("a layer of the image can't be used")]
    Disk(#[source] DiskError),
    /// One that is there, or the base bake that it was to lie over, is no good.
    #[error("a bake that is there can't be used: {reason}")]
    There {
        /// What is the matter with it.
        reason: Reason,
    },
    /// The VM to be captured could not be started.
    #[error("the virtual machine to be captured could not be started")]
    Start(#[source] StartError),
    /// The disk that the container of a warm bake writes to can't be made.
    #[error("the container that is to be captured has no writable layer")]
    Upper(#[source] UpperError),
    /// The container of a warm bake doesn't run as it should.
    #[error("the container that is to be captured could not be {action}")]
    Container {
        /// What was done about it.
        action: &'static str,
        /// What the agent said.
        #[source]
        source: Box<ttrpc::Error>,
    },
    /// It isn't ready in time.
    #[error(
        "the container that is to be captured wasn't ready and warmed up within {seconds} s; check what says when it is"
    )]
    NotReady {
        /// How long was waited.
        seconds: u64,
    },
    /// The VMM could not write the guest out.
    #[error("the virtual machine could not be captured")]
    Capture(#[source] VmmError),
    /// The store.
    #[error("the bake store {} can't be written; check that the disk isn't full", path.display())]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The bake is no good.
    #[error("the bake could not be published")]
    Publish(#[source] PublishError),
    /// A directory for the VM's logs.
    #[error("cannot use the directory {} for the virtual machine's logs", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BakeError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Off => ErrorKind::FailedPrecondition,
            Self::Machine(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Capture(error) => error.kind(),
            Self::Disk(error) => error.kind(),
            Self::Layer(_) | Self::Upper(_) | Self::Container { .. } | Self::NotReady { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::There { .. } | Self::Store { .. } | Self::Publish(_) | Self::Directory { .. } => ErrorKind::Internal,
        }
    }
}

/// Makes the bakes of a machine.
pub struct Baker<'a> {
    machine: &'a Machine,
    tell: Box<dyn FnMut(BakeStep) + Send + 'a>,
}

impl fmt::Debug for Baker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Baker").field("machine", self.machine).finish_non_exhaustive()
    }
}

/// What a bake is of, and how.
struct Captured<'a> {
    subject: Subject,
    /// What it lies over.
    over: Option<&'a Bake>,
    /// Of its image.
    layers: &'a [PathBuf],
    /// Of a warm one.
    disk: Option<&'a File>,
}

/// Where a bake is made.
#[derive(Debug)]
struct Workplace {
    draft: Draft,
    directory: RunDirectory,
}

impl<'a> Baker<'a> {
    /// One for this machine.
    pub fn new(machine: &'a Machine) -> Self {
        Self { machine, tell: Box::new(|_step| {}) }
    }

    /// The same, which tells of each step as it begins.
    #[must_use]
    pub fn telling(self, tell: impl FnMut(BakeStep) + Send + 'a) -> Self {
        Self { tell: Box::new(tell), ..self }
    }

    /// Makes the base bake: boots the machine without disks, lets the agent clean up, and captures it. Does nothing if a
    /// good one is there.
    pub async fn base(&mut self) -> Result<Baked, BakeError> {
        let subject = self.subject().await?;
        if let Some(there) = self.find(&subject).await? {
            return Ok(Baked { key: there.key, already_there: true });
        }
        let workplace = self.workplace()?;
        (self.tell)(BakeStep::Boot);
        let guest = Guest::boot(self.machine, &workplace.directory).await.map_err(BakeError::Start)?;
        self.finish(workplace, guest, Captured { subject, over: None, layers: &[], disk: None }).await
    }

    /// Makes an image's bake over the base bake, which is made first if it isn't there: restores that with the image's
    /// layers, lets the agent mount them and read what programs begin with that containers are likely to run, and captures
    /// what has changed. Programs are given by path or name; what isn't in the image is passed over. Does nothing if a
    /// good bake is there. Without layers it is the base bake that is made.
    pub async fn image(&mut self, image: &Image, programs: &[String]) -> Result<Baked, BakeError> {
        let base = self.base().await?;
        if image.layers().is_empty() {
            return Ok(base);
        }
        (self.tell)(BakeStep::Read);
        let layers = image.digests(self.machine).await.map_err(BakeError::Layer)?;
        let base = self.subject().await?;
        let subject = Subject::image(base.facts.clone(), layers);
        if let Some(there) = self.find(&subject).await? {
            return Ok(Baked { key: there.key, already_there: true });
        }
        let base = open(self.machine, &base).await.map_err(|reason| BakeError::There { reason })?;
        let root = RootDisks { layers: image.layers().to_vec(), ..RootDisks::default() };
        let mut disks = disks::Opened::open(&root).map_err(BakeError::Disk)?;
        let rootfs = Places::default().put(&mut disks).map_err(BakeError::Disk)?;
        let workplace = self.workplace()?;
        (self.tell)(BakeStep::Restore);
        let restored = Guest::restore(self.machine, &workplace.directory, &base, &disks).await;
        let guest = restored.map_err(BakeError::Start)?;
        guest.prepare_image(rootfs.layers, programs).await.map_err(BakeError::Start)?;
        self.finish(workplace, guest, Captured { subject, over: Some(&base), layers: image.layers(), disk: None }).await
    }

    /// Makes the warm bake of a container over its image's bake, which is made first if it isn't there, as
    /// [`Self::image`] does: restores that with a fresh writable disk, runs the container until it is ready, and captures
    /// what has changed, and the disk. Does nothing if a good bake is there.
    pub async fn warm(
        &mut self,
        image: &Image,
        programs: &[String],
        container: &WarmContainer,
    ) -> Result<Baked, BakeError> {
        self.image(image, programs).await?;
        let facts = self.subject().await?.facts;
        let layers = image.digests(self.machine).await.map_err(BakeError::Layer)?;
        let subject = subject(self.machine, facts.clone(), layers.clone(), Some(container));
        let subject = subject.map_err(BakeError::Upper)?;
        if let Some(there) = self.find(&subject).await? {
            return Ok(Baked { key: there.key, already_there: true });
        }
        let over = open(self.machine, &Subject::image(facts, layers)).await;
        let over = over.map_err(|reason| BakeError::There { reason })?;
        let workplace = self.workplace()?;
        let mut disks = self.disks(image.layers(), &workplace.draft).await?;
        let rootfs = Places::default().put(&mut disks).map_err(BakeError::Disk)?;
        (self.tell)(BakeStep::Restore);
        let restored = Guest::restore(self.machine, &workplace.directory, &over, &disks).await;
        let guest = restored.map_err(BakeError::Start)?;
        (self.tell)(BakeStep::Prepare);
        guest.run(rootfs, container).await?;
        let captured = Captured { subject, over: Some(&over), layers: image.layers(), disk: disks.upper() };
        self.finish(workplace, guest, captured).await
    }

    /// The layers, and a fresh writable disk that nobody else can find.
    async fn disks(&self, layers: &[PathBuf], draft: &Draft) -> Result<disks::Opened, BakeError> {
        let (template, path) = (self.machine.upper_template.clone(), draft.beside("disk"));
        let root = RootDisks { layers: layers.to_vec(), upper: Some(path.clone()), ..RootDisks::default() };
        let make = move || clone_upper(&template, &path).map(|_bytes| path);
        let path = apart(make).await.map_err(BakeError::Upper)?;
        let opened = disks::Opened::open(&root).map_err(BakeError::Disk)?;
        let directory = |source| BakeError::Directory { path: path.clone(), source };
        std::fs::remove_file(&path).map_err(directory)?;
        Ok(opened)
    }

    /// What the base bake is of.
    async fn subject(&self) -> Result<Subject, BakeError> {
        if !self.machine.is_baking {
            return Err(BakeError::Off);
        }
        Ok(Subject::base(self.machine.facts().await.map_err(BakeError::Machine)?))
    }

    /// A good bake that is there. Fails if there is one that can neither be used nor replaced.
    async fn find(&self, subject: &Subject) -> Result<Option<Box<Bake>>, BakeError> {
        match open(self.machine, subject).await {
            Ok(bake) => Ok(Some(bake)),
            Err(reason @ (Reason::Untrusted { .. } | Reason::Unreadable { .. })) => Err(BakeError::There { reason }),
            Err(reason) => {
                tracing::info!(level = %subject.level(), %reason, "baking");
                Ok(None)
            }
        }
    }

    fn workplace(&self) -> Result<Workplace, BakeError> {
        let store = &self.machine.store;
        let store_failed = |source| BakeError::Store { path: store.directory().to_owned(), source };
        let draft = store.draft().map_err(store_failed)?;
        let path = self.machine.run.join("bake").join(draft.name());
        let directory = RunDirectory::create(&path).map_err(|source| BakeError::Directory { path, source })?;
        Ok(Workplace { draft, directory })
    }

    /// Restores what was captured, and sees what it writes to.
    async fn rehearse(
        &mut self,
        captured: (&Draft, &[Extent]),
        directory: &RunDirectory,
        over: Option<&Bake>,
        layers: &[PathBuf],
    ) -> Result<Written, RehearsalError> {
        (self.tell)(BakeStep::Rehearse);
        let disks = self.disks(layers, captured.0).await;
        let mut disks = disks.map_err(|error| RehearsalError::Upper(Box::new(error)))?;
        let rootfs = Places::default().put(&mut disks)?;
        Guest::restore_draft(self.machine, directory, captured, over, &disks).await?.rehearse(rootfs).await
    }

    /// Captures a guest and puts the bake into the store.
    async fn finish(
        &mut self,
        workplace: Workplace,
        guest: Guest<'_>,
        captured: Captured<'_>,
    ) -> Result<Baked, BakeError> {
        let Captured { subject, over, layers, disk } = captured;
        let Workplace { mut draft, directory } = workplace;
        let path = draft.beside("disk");
        let disk = disk.map(File::try_clone).transpose().map_err(|source| BakeError::Directory { path, source })?;
        guest.prepare_capture().await.map_err(BakeError::Start)?;
        (self.tell)(BakeStep::Capture);
        let pages = if over.is_some() { Pages::Changed } else { Pages::All };
        let extents = guest.capture(&draft, pages).await?;
        let [written, later] = match (over, &disk) {
            // Its own would have to run somebody's program once more. No container is made in it.
            (Some(image), Some(_)) => [image.manifest.written.as_slice().to_vec(), Vec::new()],
            _ => self.rehearse((&draft, &extents), &directory, over, layers).await.unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "what starts from a bake write to isn't known: they take longer");
                Written::default()
            }),
        };
        draft.foresee(written, later);
        (self.tell)(BakeStep::Publish);
        let digest = over.map(|bake| bake.manifest.memory.digest);
        let publish = move || {
            if let Some(disk) = &disk {
                draft.keep_disk(disk).map_err(PublishError::Store)?;
            }
            draft.publish(subject, digest, extents)
        };
        let published = apart(publish).await.map_err(BakeError::Publish)?;
        let key = published.key();
        if let Some(base) = over {
            base.touch();
        }
        match self.machine.store.shrink(self.machine.quota_bytes, &key) {
            Ok(gone) => {
                gone.iter().for_each(|bake| tracing::info!(key = %bake.key, "removed: bakes exceed bake.quota"))
            }
            Err(error) => tracing::warn!(error = chain(&error), "bakes may exceed bake.quota"),
        }
        Ok(Baked { key, already_there: matches!(published, Published::AlreadyThere(_)) })
    }
}
