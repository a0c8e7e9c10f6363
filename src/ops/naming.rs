//! What the image of a function is called on this machine.

use crate::build::function_naming::FunctionNaming;
use crate::config::{Config, RegistrySection, RoleName};
use crate::oci::{FunctionName, NamingError};

/// How `[naming]` calls the images of functions: the platform's names unless it says otherwise.
const TEMPLATE: &str = "{registry}/{namespace}/functions/user-{user}-func-{id}:v{version}-{code8}";
/// Further tags of a function's image.
const TAGS: [&str; 3] = ["v{version}", "latest", "sha-{commit}"];

/// A function as its caller names it.
#[derive(Debug, Clone)]
pub struct FunctionIds {
    /// Which function it is.
    pub function: String,
    /// Whose it is.
    pub user: String,
    /// Which version of it.
    pub version: String,
    /// The commit of its code, when there is one.
    pub commit: Option<String>,
}

/// How the image of the function `ids` is called on this machine.
///
/// # Errors
///
/// [`NamingError`] for a template that is none; the ids are checked by the build.
pub fn function_naming(config: &Config, ids: FunctionIds) -> Result<FunctionNaming, NamingError> {
    let naming = &config.naming;
    let template = match &naming.template {
        Some(template) => template.0.clone(),
        None => TEMPLATE.parse()?,
    };
    let tags = match &naming.tags {
        Some(tags) => tags.iter().map(|tag| tag.0.clone()).collect(),
        None if template.has_a_repository_for_each() => TAGS.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let pushes = |section: &&RegistrySection| !matches!(section.role, Some(RoleName::Pull));
    let first = config
        .registry
        .iter()
        .filter(pushes)
        .min_by_key(|section| section.priority.unwrap_or(u32::MAX));
    let registry = naming.registry.clone().or_else(|| Some(first?.host.clone()));
    let function = FunctionName {
        registry: registry.unwrap_or_default(),
        namespace: naming.namespace.clone().unwrap_or_default(),
        user: ids.user,
        id: ids.function,
        version: ids.version,
        commit: ids.commit.unwrap_or_default(),
        code8: String::new(),
    };
    Ok(FunctionNaming {
        template,
        tags,
        function,
    })
}
