//! One value of every variant of every message, for golden bytes, property tests and the seed
//! corpus of the fuzz target. A new variant does not compile before it has a sample here.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::frame::Kind;
use crate::names::{HostName, SiteName};

mod client;
mod hello;
mod login;
mod node;
mod noun;
mod site;

pub use client::client;
pub use hello::hello;
pub use login::login;
pub use node::{invocation, node, setup};
pub use noun::{EPOCH, JOB, RESERVATION, ask, command, job_view, ring};
pub use site::{offer, part, site};

/// One message, or one noun of it, in its wire form.
pub struct Sample {
    /// `Type.Variant`, unique in its conversation.
    pub name: String,
    /// The frame it travels in; nouns travel inside a message only.
    pub kind: Option<Kind>,
    pub bytes: Vec<u8>,
    /// Decodes as the type that the sample is of and encodes what came out.
    pub recode: fn(&[u8]) -> Result<Vec<u8>, CodecError>,
}

impl Sample {
    /// # Panics
    /// When the value does not survive its own encoding.
    fn of<T>(name: &str, kind: Option<Kind>, value: &T) -> Self
    where
        T: Serialize + DeserializeOwned + Debug + PartialEq,
    {
        let bytes = codec::encode(value).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back: T = codec::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(&back, value, "{name}");
        Self { name: name.to_owned(), kind, bytes, recode: recode::<T> }
    }
}

/// Decodes as a `T` and encodes what came out.
pub(crate) fn recode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    codec::encode(&codec::decode::<T>(bytes)?)
}

/// Every sample of every conversation.
pub fn all() -> Vec<Sample> {
    [login(), client(), site(), node(), invocation()].into_iter().flatten().collect()
}

/// The samples of one enum. The match that it makes has no wildcard.
macro_rules! every_variant {
    ($enum:ident, $kind:expr, { $($variant:ident: $value:expr,)* }) => {{
        #[allow(dead_code)]
        fn none_is_missing(value: &$enum) {
            match value { $($enum::$variant { .. } => (),)* }
        }
        vec![$({
            let value: $enum = $value;
            assert!(matches!(value, $enum::$variant { .. }), "the sample of another variant");
            $crate::samples::Sample::of(
                concat!(stringify!($enum), ".", stringify!($variant)), $kind, &value,
            )
        },)*]
    }};
}
pub(crate) use every_variant;

fn name<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a sample's name follows its rule")
}

fn host(site: &str, number: u32) -> HostName {
    HostName { site: name::<SiteName>(site), number }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 71, 128, last)
}
