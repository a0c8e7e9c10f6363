//! The options of the limits of a run, one for each.

use clap::Args;

use crate::policy::{with_limits, GivenLimits, Typed};

macro_rules! limit_args {
    ($($(#[doc = $doc:literal])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// An option for each limit.
        #[derive(Debug, Args)]
        pub(super) struct LimitArgs {
            $(
                $(#[doc = $doc])*
                #[arg(
                    long,
                    short = short_of(stringify!($name)),
                    value_name = $word,
                    help = format!("{} [default: {}]", concat!($($doc),*).trim(), default_of::<$value>($default))
                )]
                $name: Option<$given>,
            )*
        }

        impl LimitArgs {
            /// The limits that the options set.
            pub(super) fn given(&self) -> GivenLimits {
                GivenLimits { $($name: self.$name,)* }
            }
        }
    };
}
with_limits!(limit_args);

/// The letter of the one limit that has one.
fn short_of(name: &str) -> Option<char> {
    (name == "memory").then_some('m')
}

/// A default as it is typed.
fn default_of<T: Typed>(value: T) -> String {
    value.typed()
}
