//! What the image of a function is called, where the platform names it.

use crate::oci::{DiffId, FunctionName, NamingError, Reference, TagTemplate, Template};

/// A function by its ids, and how images are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionNaming {
    /// Names the image.
    pub template: Template,
    /// Further tags of it.
    pub tags: Vec<TagTemplate>,
    /// Which function it is; its `code8` is the build's to find out.
    pub function: FunctionName,
}

impl FunctionNaming {
    /// Whether there will be a name, before anything is built.
    ///
    /// # Errors
    ///
    /// As [`FunctionNaming::names`].
    pub(crate) fn check(&self) -> Result<(), NamingError> {
        self.names(&DiffId::of(b"")).map(drop)
    }

    /// The names of the image whose code is the layer `code`, the template's first.
    ///
    /// # Errors
    ///
    /// [`NamingError`] for ids that no name can have, or that would make a name of two functions.
    pub(crate) fn names(&self, code: &DiffId) -> Result<Vec<Reference>, NamingError> {
        let function = FunctionName {
            code8: code.hex().chars().take(8).collect(),
            ..self.function.clone()
        };
        let name = self.template.name(&function)?;
        let mut names = vec![name];
        for tag in &self.tags {
            let Some(tag) = tag.tag(&function)? else {
                continue;
            };
            let tagged = names[0]
                .tagged(&tag)
                .map_err(|reason| NamingError::Reference { name: tag, reason })?;
            if !names.contains(&tagged) {
                names.push(tagged);
            }
        }
        Ok(names)
    }

    /// What the image says of its function (docs/formats.md).
    pub(crate) fn labels(&self) -> [(String, String); 3] {
        let function = &self.function;
        [
            ("org.mecapy.function.id", &function.id),
            ("org.mecapy.function.user", &function.user),
            ("org.mecapy.function.version", &function.version),
        ]
        .map(|(label, value)| (label.to_owned(), value.clone()))
    }
}
