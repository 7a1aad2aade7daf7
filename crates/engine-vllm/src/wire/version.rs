//! Which vLLM is at the other end, and where its fields are.

use std::fmt;

/// The first and the last release whose messages are known here, as minor versions of 0.
const FIRST_MINOR: u32 = 23;
const LAST_MINOR: u32 = 33;
/// vLLM 0.26 put `ec_transfer_params` before `trace_headers`, in the middle of each output.
const EC_TRANSFER_MINOR: u32 = 26;

/// A release of vLLM, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VllmVersion {
    /// 0, so far.
    pub major: u32,
    /// What changes with every release.
    pub minor: u32,
}

impl VllmVersion {
    /// Reads `0.32.0`, `0.32.0+cpu`, `0.33.1rc1.dev12+g1234567`; `None` when it does not begin with two numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().trim_start_matches('v').split(['.', '+', '-']);
        let major = parts.next()?.parse().ok()?;
        let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for VllmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where the fields of an output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// vLLM 0.23 to 0.25.
    BeforeEcTransfer,
    /// vLLM 0.26 and later.
    WithEcTransfer,
    /// The version is not known: at most 13 fields are of the older layout, more of the newer one.
    ByLength,
}

/// Fields of an output of the older layout.
const OLD_FIELDS: u32 = 13;

impl Layout {
    /// The layout of an engine core that reports this version. With `untested`, versions that nobody has tried are
    /// taken, too, and read as the nearest one that somebody has.
    ///
    /// # Errors
    /// When the messages of this version are not known.
    pub fn of_version(reported: Option<&str>, untested: bool) -> Result<Self, UnsupportedVersion> {
        let refusal = |version: &str| UnsupportedVersion { version: version.chars().take(64).collect() };
        let Some(text) = reported else {
            // The ready message carries the version since 0.23.
            return if untested { Ok(Layout::ByLength) } else { Err(refusal("before 0.23")) };
        };
        match VllmVersion::parse(text) {
            Some(VllmVersion { major: 0, minor }) if (FIRST_MINOR..=LAST_MINOR).contains(&minor) => {
                let is_old = minor < EC_TRANSFER_MINOR;
                Ok(if is_old { Layout::BeforeEcTransfer } else { Layout::WithEcTransfer })
            }
            Some(version) if untested && version > (VllmVersion { major: 0, minor: LAST_MINOR }) => {
                Ok(Layout::WithEcTransfer)
            }
            _ if untested => Ok(Layout::ByLength),
            _ => Err(refusal(text)),
        }
    }

    /// Whether an output of so many fields has `ec_transfer_params`. `None` when this layout has no such outputs.
    pub(crate) fn has_ec_transfer(self, fields: u32) -> Option<bool> {
        match self {
            Layout::BeforeEcTransfer => (fields <= OLD_FIELDS).then_some(false),
            Layout::WithEcTransfer => Some(true),
            Layout::ByLength => Some(fields > OLD_FIELDS),
        }
    }
}

/// The engine core is of a version whose messages are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the engine is vLLM {version}, and 0.{FIRST_MINOR} to 0.{LAST_MINOR} are known; use one of these, or try with \
     --allow-untested-vllm"
)]
pub struct UnsupportedVersion {
    /// What it calls itself.
    pub version: String,
}
