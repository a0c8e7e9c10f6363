//! What builds take from the configuration and the environment: nothing below `ops` sees either.

use crate::base::{Allowed, BaseSettings};
use crate::config::{secret_variable, Config, Environment, ExtraSection, IndexSection};
use crate::net::{Address, Credentials};
use crate::policy::normalise;
use crate::python::resolve::{ExtraIndex, LockError, Login, Resolver};

/// Where bases come from.
pub fn base_settings(config: &Config) -> BaseSettings {
    let base = &config.base;
    BaseSettings {
        mirror: base.mirror.clone().map(Address::new),
        security_mirror: base.security_mirror.clone().map(Address::new),
        keyring: base.keyring.clone(),
        interpreter_mirror: base.interpreter_mirror.clone().map(Address::new),
        definitions: base.definitions.clone(),
    }
}

/// Which system packages functions may ask for.
pub fn allowed_packages(config: &Config) -> Allowed {
    match &config.system {
        system if system.allow_all => Allowed::Any,
        system => system.allowed.clone().map_or(Allowed::Shipped, Allowed::These),
    }
}

/// What resolves requirements; the base says for which Python.
///
/// # Errors
///
/// [`LockError`] when the index of the configuration is no address, or its password cannot be read.
pub fn resolver(config: &Config, environment: &Environment) -> Result<Resolver, LockError> {
    Ok(Resolver {
        uv: config.index.uv.clone(),
        index: index(&config.index)?.map(Address::new),
        extra: config.index.extra.iter().map(extra).collect::<Result<_, _>>()?,
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
    let url = Credentials::join(url, user, &password(variable)?);
    url.ok_or_else(|| no_password(variable, "has no address to go with"))
        .map(Some)
}

/// A further index, with the user and the password that the configuration names.
fn extra(section: &ExtraSection) -> Result<ExtraIndex, LockError> {
    let login = match (&section.user, &section.password_env) {
        (Some(user), Some(variable)) => Some(Login {
            user: user.clone(),
            password: password(variable)?,
        }),
        _ => None,
    };
    Ok(ExtraIndex {
        name: section.name.clone().unwrap_or_else(|| section.url.clone()),
        url: Address::new(&section.url),
        login,
        packages: section.packages.iter().map(|name| normalise(name)).collect(),
    })
}

fn password(variable: &str) -> Result<String, LockError> {
    let password = secret_variable(variable).ok_or_else(|| no_password(variable, "is not set"))?;
    String::from_utf8(password).map_err(|_| no_password(variable, "is no UTF-8"))
}

fn no_password(variable: &str, problem: &'static str) -> LockError {
    LockError::Password {
        variable: variable.to_owned(),
        problem,
    }
}
