//! Which dashboards there are: rules link to them, and they are written by the same names.

/// A dashboard: the end of its uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Board {
    Overview,
    Slo,
    Latency,
    Tenants,
    Cost,
    Incident,
    Sidecar,
}

impl Board {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Slo => "slo",
            Self::Latency => "latency",
            Self::Tenants => "tenants",
            Self::Cost => "cost",
            Self::Incident => "incident",
            Self::Sidecar => "sidecar",
        }
    }
}
