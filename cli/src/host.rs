//! What commands look at: the configuration, the bake store, the machines that run, and what this host is.

use std::path::Path;

use supermachine::{Entry, Machine, MachineError, MachineFacts, Store, StoreError};
use supermachine_config::{Config, ConfigError};

use crate::bakes::{self, Listed};
use crate::machines::{self, Found, MachinesError};

/// This host as it is configured. Making one of these touches nothing.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) store: Store,
}

impl Host {
    /// The host that a configuration file describes, or the installed one.
    pub(crate) fn load(config: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(Self::new(config.map_or_else(Config::load, Config::load_from)?))
    }

    pub(crate) fn new(config: Config) -> Self {
        let store = Store::new(config.paths.bakes.clone(), &config.paths.run);
        Self { config, store }
    }

    /// All bakes, with what their manifests say.
    pub(crate) fn bakes(&self) -> Result<Vec<Listed>, StoreError> {
        let read = |entry: Entry| Listed { manifest: self.store.manifest(&entry.key).map_err(|r| r.fault()), entry };
        let bakes: Vec<_> = self.store.list()?.into_iter().map(read).collect();
        let mut bakes = bakes::without_orphans(bakes);
        bakes.sort_by_key(|bake| std::cmp::Reverse(bake.entry.made_at));
        Ok(bakes)
    }

    /// All machines that run.
    pub(crate) fn machines(&self) -> Result<Found, MachinesError> {
        let program = self.config.paths.vmm.file_name().unwrap_or_default().to_string_lossy();
        machines::find(&self.config.paths.sandboxes(), Path::new("/proc"), &program)
    }

    /// What a bake for this host depends on.
    pub(crate) async fn facts(&self) -> Result<MachineFacts, MachineError> {
        Machine::load(&self.config)?.facts().await
    }

    /// Whether bakes fit this host, or why that can't be told.
    pub(crate) async fn fits(&self) -> bakes::Fits {
        match self.facts().await {
            Ok(facts) => bakes::Fits::Known(Box::new(facts)),
            Err(error) => bakes::Fits::Unknown(supermachine::chain(&error)),
        }
    }
}
