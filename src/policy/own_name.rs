//! What the machine of a run is called, by itself.

/// Its host name.
pub const OWN_NAME: &str = "sandbox";
/// The `/etc/hosts` of a run that reaches no host: the same for all of them, so it is in the store and not made at each start.
pub const OWN_HOSTS: &str = "127.0.0.1 localhost\n127.0.0.1 sandbox\n";
