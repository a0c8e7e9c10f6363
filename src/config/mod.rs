//! Turns the configuration file and the environment into values. Nothing else reads either, and nothing below `ops` sees
//! the result.

mod bounds;
mod cache_section;
mod environment;
mod error;
mod explained;
mod file;
mod files;
mod naming_section;
mod package_index;
mod registry_section;
mod several;
mod shown;

pub use bounds::{Exceeded, LimitsSection};
pub use cache_section::CacheSection;
pub use environment::{is_started_by_systemd, proxy_of, secret_variable, Environment};
pub use error::ConfigError;
pub use file::{BaseSection, Config, RunSection, StoreSection};
pub use naming_section::NamingSection;
pub use package_index::{ExtraSection, IndexSection};
pub use registry_section::{
    ApiName, CredentialsSection, ManagementSection, RegistrySection, RoleName, TransferSection,
};
pub use shown::{template, Shown};
