//! What can be wrong between two places of a lab: nothing passes, or not all, or not in time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// Two places with a poor link between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The places: a cluster (`a`), a node (`a/n1`), or a replica's etcd (`a/etcd`, `a/etcd2`). In order, so that a cut from b to a
    /// is the one from a to b.
    pub places: [String; 2],
    /// Only what goes to this port, and what comes back from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What still passes each way; nothing, unless given.
    #[serde(flatten)]
    pub impairment: Option<Impairment>,
}

/// What a cut lets through, each way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Impairment {
    /// So much a second, as `tc` writes rates.
    Rate(String),
    /// All but so many packets of a hundred.
    Loss(u8),
    /// Everything, so many milliseconds later. Only to an etcd.
    Delay(u32),
}

/// The longest delay, in milliseconds: longer is a cut.
const LONGEST: u32 = 10_000;

// === impl Cut ===

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.places;
        write!(f, "{one} – {other}")?;
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        match &self.impairment {
            Some(impairment) => write!(f, ", {impairment}"),
            None => Ok(()),
        }
    }
}

// === impl Impairment ===

impl Impairment {
    /// The flags of `lab cut` that mean it.
    pub fn to_flag(&self) -> Vec<String> {
        let (flag, value) = match self {
            Self::Rate(rate) => ("--rate", rate.clone()),
            Self::Loss(percent) => ("--loss", format!("{percent}%")),
            Self::Delay(millis) => ("--delay", format!("{millis}ms")),
        };
        vec![flag.into(), value]
    }

    /// A rate that `tc` takes: a number and its unit.
    pub fn rate(rate: &str) -> Result<Self, LabError> {
        let (number, unit) = number(rate);
        if number.is_some_and(|number| number > 0)
            && ["bit", "kbit", "mbit", "gbit"].contains(&unit)
        {
            Ok(Self::Rate(rate.into()))
        } else {
            Err(LabError::Rate(rate.into()))
        }
    }

    /// A share of packets, as in `30%`.
    pub fn loss(loss: &str) -> Result<Self, LabError> {
        let invalid = || LabError::Loss(loss.into());
        match number(loss) {
            // None lost is no cut, and all lost is a whole one.
            (Some(percent @ 1..100), "%") => {
                Ok(Self::Loss(u8::try_from(percent).map_err(|_| invalid())?))
            }
            _ => Err(invalid()),
        }
    }

    /// A time, as in `200ms`.
    pub fn delay(delay: &str) -> Result<Self, LabError> {
        let millis = match number(delay) {
            (Some(number), "ms") => Some(number),
            (Some(number), "s") => number.checked_mul(1_000),
            _ => None,
        };
        let millis = millis.filter(|millis| (1..=LONGEST).contains(millis));
        millis.map(Self::Delay).ok_or_else(|| LabError::Delay(delay.into()))
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => f.write_str(rate),
            Self::Loss(percent) => write!(f, "{percent}% lost"),
            Self::Delay(millis) => write!(f, "{millis} ms late"),
        }
    }
}

/// A number and what follows it.
fn number(text: &str) -> (Option<u32>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit)
}
