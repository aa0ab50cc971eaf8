//! Faults between two locations of a lab: packets are dropped, limited in rate, or delayed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// A fault between two locations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The locations: a cluster (`a`), a node (`a/n1`), or the etcd of a replica (`a/etcd`, `a/etcd2`). They are sorted, so
    /// that a cut from b to a equals one from a to b.
    pub places: [String; 2],
    /// The only port whose packets are affected, to it and from it; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How packets are impaired in each direction; `None` drops all.
    #[serde(flatten)]
    pub impairment: Option<Impairment>,
}

/// How packets are impaired, in each direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Impairment {
    /// The rate is limited. The value is in the syntax of `tc`, as `1mbit`.
    Rate(String),
    /// This percentage of packets is dropped.
    Loss(u8),
    /// Packets are delayed by this many milliseconds; only for traffic to an etcd.
    Delay(u32),
}

/// The longest delay, in milliseconds.
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
    /// The flags of `lab cut` for this impairment.
    pub fn to_flag(&self) -> Vec<String> {
        let (flag, value) = match self {
            Self::Rate(rate) => ("--rate", rate.clone()),
            Self::Loss(percent) => ("--loss", format!("{percent}%")),
            Self::Delay(millis) => ("--delay", format!("{millis}ms")),
        };
        vec![flag.into(), value]
    }

    /// Parses a rate: a number and a unit of `tc`.
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

    /// Parses a share of packets, as `30%`.
    pub fn loss(loss: &str) -> Result<Self, LabError> {
        let invalid = || LabError::Loss(loss.into());
        match number(loss) {
            // 0% is no cut, and 100% is one without an impairment.
            (Some(percent @ 1..100), "%") => {
                Ok(Self::Loss(u8::try_from(percent).map_err(|_| invalid())?))
            }
            _ => Err(invalid()),
        }
    }

    /// Parses a delay, as `200ms`.
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

/// Splits a text into a number and the rest.
fn number(text: &str) -> (Option<u32>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit)
}
