//! What builds take from the configuration and the environment: nothing below `ops` sees either.

use crate::base::{Allowed, BaseSettings};
use crate::config::{
    proxy_of, secret_variable, ApiName, Config, CredentialsSection, Environment, ExtraSection, IndexSection,
    RegistrySection, RoleName,
};
use crate::net::{Address, Credentials};
use crate::policy::normalise;
use crate::python::resolve::{ExtraIndex, LockError, Login, Resolver};
use crate::transfer::{Credential, LoginPlaces, ManagementApi, Registries, RegistryEntry, Role, TransferRules};

/// The registries of this machine, and who we are to them.
pub fn registries(config: &Config, environment: &Environment) -> Registries {
    let numbered = (1..).zip(&config.registry);
    let entries = numbered.map(|(number, section)| entry(section, number)).collect();
    let (given, usual) = (&config.transfer, TransferRules::default());
    let count = |given: Option<u32>, usual: usize| given.and_then(|count| count.try_into().ok()).unwrap_or(usual);
    let rules = TransferRules {
        downloads: count(given.downloads.map(Into::into), usual.downloads),
        uploads: count(given.uploads.map(Into::into), usual.uploads),
        connections: count(given.connections.map(Into::into), usual.connections),
        hedge: given.hedge.map_or(usual.hedge, Into::into),
        stall: given.stall.map_or(usual.stall, Into::into),
        connect: given.connect.map_or(usual.connect, Into::into),
        ranges: given.ranges.unwrap_or(usual.ranges),
    };
    let places = LoginPlaces {
        files: environment.login_files(),
        variable: Some(secret_variable),
        path: environment.path.clone(),
        helper_environment: environment.of_helpers(),
    };
    Registries::new(entries, rules, places, |url| proxy_of(url).is_some())
}

fn entry(section: &RegistrySection, number: u32) -> RegistryEntry {
    RegistryEntry {
        host: section.host.clone(),
        priority: section.priority.unwrap_or(number),
        role: match section.role {
            Some(RoleName::Pull) => Role::Pull,
            Some(RoleName::Push) | None => Role::Push,
        },
        credentials: section.credentials.as_ref().and_then(credential),
        is_plain: section.plain_http,
        chunk: section.chunk.map(Into::into),
        immutable: section.immutable.clone(),
        connections: section.connections.and_then(|count| u32::from(count).try_into().ok()),
        pulls_per_minute: section.pulls_per_minute.map(Into::into),
        management: section.management.as_ref().map(|management| {
            let url = management.url.clone();
            match management.api {
                ApiName::Scaleway => ManagementApi::Scaleway { url },
                ApiName::GitHub => ManagementApi::GitHub { url },
            }
        }),
    }
}

/// What the configuration names; it was checked that it is one of these.
fn credential(section: &CredentialsSection) -> Option<Credential> {
    let user = || section.user.clone().unwrap_or_default();
    match section {
        CredentialsSection { helper: Some(name), .. } => Some(Credential::Helper { name: name.clone() }),
        CredentialsSection {
            password_env: Some(variable),
            ..
        } => Some(Credential::Variable {
            user: user(),
            variable: variable.clone(),
        }),
        CredentialsSection {
            password_file: Some(file),
            ..
        } => Some(Credential::PasswordFile {
            user: user(),
            file: file.clone(),
        }),
        CredentialsSection { anonymous: true, .. } => Some(Credential::Anonymous),
        _ => None,
    }
}

/// Where bases come from.
pub fn base_settings(config: &Config, environment: &Environment) -> BaseSettings {
    let base = &config.base;
    BaseSettings {
        registries: registries(config, environment),
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
