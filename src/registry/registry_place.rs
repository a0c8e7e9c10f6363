//! Where a registry is, and what it makes of who we say we are.

/// Where a registry is.
#[derive(Debug, Clone)]
pub(crate) struct RegistryPlace {
    /// Its host, with its port if that is another one than usual.
    pub host: String,
    /// Whether it is spoken to without TLS; for a registry on this machine alone.
    pub is_plain: bool,
    /// A registry of the configuration that is spelled almost so, when this one is none of them.
    pub similar: Option<String>,
}

/// What a registry makes of a password that it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It accepts it.
    Accepted,
    /// It answers whoever asks, and looks at no password.
    Unasked,
}
