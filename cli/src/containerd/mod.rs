//! Images, as containerd knows them.

mod image;
mod name;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use generated::{content, images};
pub(crate) use image::{Image, ImageError, read};
pub(crate) use name::normalize;

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::panic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    pub(crate) mod images {
        tonic::include_proto!("containerd.services.images.v1");
    }
    pub(crate) mod content {
        tonic::include_proto!("containerd.services.content.v1");
    }
}

/// Largest manifest or configuration of an image that is read, in bytes. Registries allow 4 MiB.
const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// containerd doesn't tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerdError {
    /// Nobody answers.
    #[error("containerd does not answer on {}; start it, or name its socket with --address", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    /// It has no such image.
    #[error(
        "containerd has no image {name} in the namespace {namespace}; `nerdctl --namespace {namespace} pull \
         --snapshotter supermachine {name}` gets it"
    )]
    NoImage {
        /// Its full name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// A part of the image isn't there.
    #[error("containerd lacks {digest} of the image; pull it again")]
    NoContent {
        /// The part's digest.
        digest: String,
    },
    /// A part of the image is larger than any.
    #[error("{digest} of the image is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge {
        /// The part's digest.
        digest: String,
    },
    /// It refused.
    #[error("containerd: {}", .0.message())]
    Refused(Box<Status>),
    /// The image makes no sense.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl From<Status> for ContainerdError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// What says what an image is (OCI image specification), as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
}

/// One of containerd's namespaces.
#[derive(Debug)]
pub(crate) struct Containerd {
    channel: Channel,
    namespace: String,
}

impl Containerd {
    /// Connects to a containerd.
    pub(crate) async fn connect(socket: &Path, namespace: &str) -> Result<Self, ContainerdError> {
        let failed = |source| ContainerdError::Connect { socket: socket.to_owned(), source };
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        Ok(Self { channel, namespace: namespace.to_owned() })
    }

    /// What an image is made of, for this machine's architecture.
    pub(crate) async fn image(&self, name: &str) -> Result<Image, ContainerdError> {
        Ok(Image::parse(&self.documents(name).await?.config)?)
    }

    /// An image's documents, for this machine's architecture.
    pub(crate) async fn documents(&self, name: &str) -> Result<Documents, ContainerdError> {
        let mut images = images::images_client::ImagesClient::new(self.channel.clone());
        let request = self.request(images::GetImageRequest { name: name.to_owned() });
        let found = images.get(request).await.map_err(|status| match status.code() {
            Code::NotFound => ContainerdError::NoImage { name: name.to_owned(), namespace: self.namespace.clone() },
            _ => status.into(),
        })?;
        let target = found.into_inner().image.and_then(|image| image.target).unwrap_or_default();
        let mut document = self.read(&target.digest).await?;
        if let Some(manifest) = image::choose(&document)? {
            document = self.read(&manifest).await?;
        }
        let config = self.read(&image::config_of(&document)?).await?;
        Ok(Documents { manifest: document, config })
    }

    /// A document of an image.
    async fn read(&self, digest: &str) -> Result<Vec<u8>, ContainerdError> {
        let mut content = content::content_client::ContentClient::new(self.channel.clone());
        let request = self.request(content::ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let missing = |status: Status| match status.code() {
            Code::NotFound => ContainerdError::NoContent { digest: digest.to_owned() },
            _ => status.into(),
        };
        let mut parts = content.read(request).await.map_err(missing)?.into_inner();
        let mut document = Vec::new();
        while let Some(part) = parts.message().await.map_err(missing)? {
            document.extend_from_slice(&part.data);
            if document.len() > MAX_DOCUMENT_BYTES {
                return Err(ContainerdError::TooLarge { digest: digest.to_owned() });
            }
        }
        Ok(document)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // What is no header is no namespace either: containerd says so.
        if let Ok(namespace) = self.namespace.parse() {
            request.metadata_mut().insert("containerd-namespace", namespace);
        }
        request
    }
}
