//! What builds take from the configuration and the environment: nothing below `ops` sees either.

use crate::base::{Allowed, BaseSettings};
use crate::config::{secret_variable, Config, Environment, IndexSection};
use crate::net::{Address, Credentials};
use crate::python::resolve::{LockError, Resolver};

/// Where bases come from.
pub fn base_settings(config: &Config) -> BaseSettings {
    let base = &config.base;
    BaseSettings {
        mirror: base.mirror.clone().map(Address::new),
        security_mirror: base.security_mirror.clone().map(Address::new),
        keyring: base.keyring.clone(),
    }
}

/// Which system packages functions may ask for.
pub fn allowed_packages(config: &Config) -> Allowed {
    match &config.system {
        system if system.allow_all => Allowed::Any,
        system => system.allowed.clone().map_or(Allowed::Shipped, Allowed::These),
    }
}

/// What resolves requirements for `python`, a version such as 3.11.
///
/// # Errors
///
/// [`LockError`] when the index of the configuration is no address, or its password cannot be read.
pub fn resolver(config: &Config, environment: &Environment, python: &str) -> Result<Resolver, LockError> {
    Ok(Resolver {
        uv: config.index.uv.clone(),
        python: python.to_owned(),
        index: index(&config.index)?.map(Address::new),
        path: environment.path.clone(),
        network: environment.network.clone(),
        files: environment.uv_configurations(),
        pip_files: environment.pip_configurations(),
        ..Resolver::default()
    })
}

/// The configured index, with the user and the password that the configuration names.
fn index(index: &IndexSection) -> Result<Option<String>, LockError> {
    let (Some(url), Some(user), Some(variable)) = (&index.url, &index.user, &index.password_env) else {
        return Ok(index.url.clone());
    };
    let problem = |problem| LockError::Password {
        variable: variable.clone(),
        problem,
    };
    let password = secret_variable(variable).ok_or_else(|| problem("is not set"))?;
    let password = String::from_utf8(password).map_err(|_| problem("is no UTF-8"))?;
    let url = Credentials::join(url, user, &password);
    url.ok_or_else(|| problem("has no address to go with")).map(Some)
}
