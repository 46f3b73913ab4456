//! The cache volume, as the runner sees it: how full it is, and two small files in its root.
//!
//! BuildKit tells over gRPC what its records take, but not how full the file system is, and nobody tells which reset a
//! volume has seen already: that must be known where the cache is, because pods come and go. So the volume is mounted
//! into the runner too. A RUN step gains nothing by it: it never sees the runner's container. But a RUN step of profile
//! `Rootless` can reach the volume through the daemon and put there what it likes, so nothing in it is trusted: the
//! runner opens two fixed names in the volume's root and no other, follows no link, reads a few bytes of regular files,
//! and publishes none of them. What a forged file does is forge the report of a reset of the forger's own cache.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use buildpools_crds::member_config::{CACHE_HEALED_FILE, CACHE_RESET_FILE};
use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, open, openat, renameat, statvfs, unlinkat};

/// More than either file holds.
const MAX_BYTES: u64 = 64;

/// How full a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the file system.
    pub capacity: i64,
    /// Bytes that are free for users that are not root.
    pub available: i64,
    /// Inodes; 0 when the file system does not count them.
    pub inodes: i64,
    /// Inodes that are free.
    pub inodes_free: i64,
}

/// The cache volume.
#[derive(Clone, Debug)]
pub struct Volume(PathBuf);

impl Volume {
    /// The volume that is mounted there.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(path.as_ref().to_owned())
    }

    /// How full it is.
    pub fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.0)?;
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let bytes = |blocks: u64| whole(blocks.saturating_mul(found.f_frsize));
        Ok(Space {
            capacity: bytes(found.f_blocks),
            available: bytes(found.f_bavail),
            inodes: whole(found.f_files),
            inodes_free: whole(found.f_favail),
        })
    }

    /// Whether the volume was emptied for this value of `spec.cache.reset`.
    pub fn was_reset_for(&self, value: &str) -> bool {
        self.read(CACHE_RESET_FILE).is_ok_and(|found| found == value)
    }

    /// Notes that the volume was emptied for this value.
    pub fn note_reset(&self, value: &str) -> io::Result<()> {
        let directory = self.directory()?;
        let new = format!("{CACHE_RESET_FILE}.new");
        // Left over by a process that was killed.
        let _ = unlinkat(&directory, &new, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(&directory, &new, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(value.as_bytes())?;
        file.sync_all()?;
        // Replaces a link itself and not what it points to.
        renameat(&directory, &new, &directory, CACHE_RESET_FILE)?;
        Ok(())
    }

    /// When the daemon's entry point emptied the cache because its database was damaged.
    pub fn healed_at(&self) -> Option<Timestamp> {
        let seconds = self.read(CACHE_HEALED_FILE).ok()?.trim().parse().ok()?;
        Timestamp::from_second(seconds).ok().filter(|time| *time <= Timestamp::now())
    }

    fn directory(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.0, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        // Without NONBLOCK, a FIFO of that name would hold the runner for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(self.directory()?, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut text = String::new();
        std::fs::File::from(file).take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_reset_is_remembered_by_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::new(directory.path());
        assert!(!volume.was_reset_for("1"));
        volume.note_reset("1").unwrap();
        assert!(volume.was_reset_for("1") && !volume.was_reset_for("2"));
        volume.note_reset("2").unwrap();
        assert!(Volume::new(directory.path()).was_reset_for("2"));
    }

    #[test]
    fn links_and_other_files_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::new(directory.path());
        let login = directory.path().join("login");
        std::fs::write(&login, "1").unwrap();
        symlink(&login, directory.path().join(CACHE_RESET_FILE)).unwrap();
        assert!(!volume.was_reset_for("1"), "the link was followed");
        let new = format!("{CACHE_RESET_FILE}.new");
        symlink(&login, directory.path().join(&new)).unwrap();
        volume.note_reset("2").unwrap();
        assert_eq!(std::fs::read_to_string(&login).unwrap(), "1", "written through a link");
        assert!(volume.was_reset_for("2"));

        rustix::fs::mkfifoat(volume.directory().unwrap(), CACHE_HEALED_FILE, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(volume.healed_at(), None);
    }

    #[test]
    fn the_time_of_healing_is_a_time_of_the_past() {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::new(directory.path());
        for (text, expected) in [("1700000000\n", Some(1_700_000_000)), ("99999999999", None), ("x", None), ("", None)]
        {
            std::fs::write(directory.path().join(CACHE_HEALED_FILE), text).unwrap();
            assert_eq!(volume.healed_at().map(Timestamp::as_second), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_system_has_a_size() {
        let directory = tempfile::tempdir().unwrap();
        let space = Volume::new(directory.path()).space().unwrap();
        assert!(space.capacity > 0 && space.available <= space.capacity, "{space:?}");
        assert!(Volume::new("/nonexistent").space().is_err());
    }
}
