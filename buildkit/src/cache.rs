//! What the daemon keeps from build to build.

use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};

use crate::daemon::Daemon;
use crate::error::BuildError;

/// Records of the daemon's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of records.
    pub records: i64,
    /// Their bytes, as the daemon counts them.
    pub bytes: i64,
}

impl Usage {
    fn add(mut self, record: &UsageRecord) -> Self {
        self.records += 1;
        self.bytes = self.bytes.saturating_add(record.size.max(0));
        self
    }
}

impl Daemon {
    /// What is in the cache now. The daemon walks over all records for it, and measures those that it has not measured.
    pub async fn disk_usage(&self) -> Result<Usage, BuildError> {
        let response = self.control().disk_usage(DiskUsageRequest::default()).await;
        let response = response.map_err(|status| BuildError::from_call("DiskUsage", &status))?;
        Ok(response.into_inner().record.iter().fold(Usage::default(), Usage::add))
    }

    /// Removes every record that no build uses, those of frontends and internal ones too, and returns what was removed.
    /// The history of builds stays.
    pub async fn prune_all(&self) -> Result<Usage, BuildError> {
        let failed = |status: tonic::Status| BuildError::from_call("Prune", &status);
        let request = PruneRequest { all: true, ..PruneRequest::default() };
        let mut stream = self.control().prune(request).await.map_err(failed)?.into_inner();
        let mut removed = Usage::default();
        while let Some(record) = stream.message().await.map_err(failed)? {
            removed = removed.add(&record);
        }
        Ok(removed)
    }
}
