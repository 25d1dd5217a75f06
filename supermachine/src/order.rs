//! Bakes that are to be made.

use std::path::PathBuf;

use bake::Key;
use supermachine_config::{Bytes, Config, MAX_VCPUS, Vm};

use crate::baker::{BakeError, Baked, Baker};
use crate::daemon::RequestBakeRequest;
use crate::image::Image;
use crate::machine::{Machine, MachineError};
use crate::warm::WarmContainer;

/// A bake that is to be made.
#[derive(Debug, Clone)]
pub struct BakeOrder {
    /// Guest memory.
    pub memory: Bytes,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Without layers, the base bake is meant.
    pub image: Image,
    /// What containers of the image are likely to run.
    pub programs: Vec<String>,
    /// The container that a warm bake is to hold.
    pub container: Option<WarmContainer>,
}

/// A bake that can't be asked for.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No machine has this shape.
    #[error("no machine has {vcpus} virtual CPUs: ask for 1 to 64")]
    Shape {
        /// How many were asked for.
        vcpus: u32,
    },
    /// The container of a warm bake isn't one.
    #[error("`container` is no description of a container")]
    Container(#[source] serde_json::Error),
    /// A layer is named by a path that depends on who reads it.
    #[error("the layer {} has no absolute path", path.display())]
    Layer {
        /// Its path.
        path: PathBuf,
    },
}

impl BakeOrder {
    /// What is asked for. Zeros stand for the configured values.
    pub fn new(request: RequestBakeRequest, configured: &Vm) -> Result<Self, OrderError> {
        let memory = if request.memory_bytes == 0 { configured.memory } else { Bytes(request.memory_bytes) };
        let vcpus = match u8::try_from(request.vcpus) {
            Ok(0) => configured.vcpus,
            Ok(vcpus @ 1..=MAX_VCPUS) => vcpus,
            _ => return Err(OrderError::Shape { vcpus: request.vcpus }),
        };
        let layers: Vec<_> = request.layers.into_iter().map(PathBuf::from).collect();
        if let Some(path) = layers.iter().find(|path| !path.is_absolute()) {
            return Err(OrderError::Layer { path: path.clone() });
        }
        let container = Some(request.container).filter(|text| !text.is_empty());
        let container = container.map(|text| serde_json::from_str(&text)).transpose().map_err(OrderError::Container)?;
        Ok(Self { memory, vcpus, image: Image::new(layers), programs: request.programs, container })
    }

    /// Whether one bake fulfils both.
    pub fn is_for_the_same(&self, other: &Self) -> bool {
        (self.memory, self.vcpus) == (other.memory, other.vcpus)
            && (&self.image, &self.container) == (&other.image, &other.container)
    }

    /// The machine that it is for.
    pub fn machine(&self, config: &Config) -> Result<Machine, MachineError> {
        let mut config = config.clone();
        (config.vm.memory, config.vm.vcpus) = (self.memory, self.vcpus);
        Machine::load(&config)
    }

    /// Whether the bake is there. Whether it is damaged is found out by whoever restores from it.
    pub async fn is_fulfilled(&self, machine: &Machine) -> bool {
        self.image.is_baked(machine, self.container.as_ref()).await
    }

    /// The bake's key. Reads layers that weren't read yet.
    pub async fn key(&self, machine: &Machine) -> Result<Key, MachineError> {
        self.image.key(machine, self.container.as_ref()).await
    }

    /// Makes the bake, unless it is there.
    pub async fn fulfil(&self, baker: &mut Baker<'_>) -> Result<Baked, BakeError> {
        match &self.container {
            Some(container) => baker.warm(&self.image, &self.programs, container).await,
            None => baker.image(&self.image, &self.programs).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_order_is_refused() {
        let configured = Config::defaults().unwrap().vm;
        let order = |request| BakeOrder::new(request, &configured);
        let plain = order(RequestBakeRequest::default()).unwrap();
        assert_eq!((plain.memory, plain.vcpus), (configured.memory, configured.vcpus));
        let request = RequestBakeRequest { vcpus: 65, ..Default::default() };
        assert!(matches!(order(request), Err(OrderError::Shape { vcpus: 65 })));
        let request = RequestBakeRequest { layers: vec!["layer".to_owned()], ..Default::default() };
        assert!(matches!(order(request), Err(OrderError::Layer { .. })));
        let request = RequestBakeRequest { container: "{}".to_owned(), ..Default::default() };
        assert!(matches!(order(request), Err(OrderError::Container(_))));
    }

    #[test]
    fn programs_make_no_other_bake() {
        let plain = BakeOrder::new(RequestBakeRequest::default(), &Config::defaults().unwrap().vm).unwrap();
        assert!(plain.is_for_the_same(&BakeOrder { programs: vec!["sh".to_owned()], ..plain.clone() }));
        assert!(!plain.is_for_the_same(&BakeOrder { vcpus: plain.vcpus + 1, ..plain.clone() }));
        assert!(!plain.is_for_the_same(&BakeOrder { container: Some(WarmContainer::default()), ..plain.clone() }));
    }
}
