//! What keeps strangers out of the store that agents serve: a secret that all agents of a job have. Where nobody gives
//! them one they take the user's own, if they can all be expected to find it.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{FsType, statfs};

use crate::error::Error;
use crate::spec::rendezvous_options::{Options, SecretFile};
use crate::spec::variables::RENDEZVOUS_SECRET;
use crate::store::meeting::is_loopback;
use crate::store::secret::Secret;
use crate::sys::random;

/// The user's own secret, below the directory for configuration.
const OF_USER: &str = "libice/rendezvous_secret";

/// File systems that the hosts of a cluster share: NFS, SMB (three), Lustre, GPFS, BeeGFS, Ceph, AFS, PanFS, OrangeFS,
/// OCFS2, GFS2. By the numbers that their modules have; FUSE may be anything.
const SHARED_FILE_SYSTEMS: [u32; 13] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0bd0_0bd0,
    0x4750_4653,
    0x1983_0326,
    0x00c3_6400,
    0x5346_414f,
    0xaad7_aaea,
    0x2003_0528,
    0x7461_636f,
    0x0116_1970,
];

/// Where the secret comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Whoever can reach the store is let in.
    Nothing,
    File(PathBuf),
    Given(Secret),
    /// Made by the first who needs it; it stays. Nobody has asked for it, so it is done without where there is none.
    OfUser(PathBuf),
}

impl Source {
    /// `shared` is whether workers are to come to the same store, who have none to tell.
    pub fn of(
        options: &Options,
        var: impl Fn(&str) -> Option<Vec<u8>>,
        host: &str,
        shared: bool,
    ) -> Result<Source, Error> {
        match &options.secret_file {
            SecretFile::Named(path) => return Ok(Source::File(path.clone())),
            SecretFile::None => return Ok(Source::Nothing),
            SecretFile::Unsaid => {}
        }
        if let Some(bytes) = var(RENDEZVOUS_SECRET).filter(|bytes| !bytes.is_empty()) {
            return Secret::new(&bytes).map(Source::Given).map_err(|error| match error {
                Error::Config { value, want, .. } => Error::Config { field: RENDEZVOUS_SECRET, value, want },
                error => error,
            });
        }
        if shared {
            return Ok(Source::Nothing);
        }
        let directory = directory(&var);
        let found = |directory: &Path| is_loopback(host) || is_on_shared_file_system(directory);
        Ok(directory
            .filter(|path| found(path))
            .map_or(Source::Nothing, |path| Source::OfUser(path.join(OF_USER))))
    }

    pub fn is_by_default(&self) -> bool {
        matches!(self, Source::OfUser(_))
    }

    /// Says whence a secret came that is not the right one, where nobody has given it.
    pub fn explain(&self, why: Error) -> Error {
        match (self, why) {
            (Source::OfUser(path), Error::Config { field, value, want }) => {
                let (path, want) = (path.display(), want);
                let want = format!(
                    "{want}; this is the user's own, {path}: give all agents the same by {RENDEZVOUS_SECRET} or secret_file"
                );
                Error::Config { field, value, want }
            }
            (_, why) => why,
        }
    }

    pub fn secret(&self) -> Result<Option<Secret>, Error> {
        match self {
            Source::Nothing => Ok(None),
            Source::Given(secret) => Ok(Some(secret.clone())),
            Source::File(path) => Secret::of_file(path).map(Some),
            Source::OfUser(path) => of_user(path).map(Some),
        }
    }
}

/// The user's directory for configuration, as the XDG base directories have it.
fn directory(var: impl Fn(&str) -> Option<Vec<u8>>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = |name| var(name).map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)));
    let own = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    own.or_else(|| path("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".config")))
}

/// By what there is of it: it may have to be made.
fn is_on_shared_file_system(path: &Path) -> bool {
    let found = path.ancestors().find_map(|path| statfs(path).ok());
    found.is_some_and(|about| is_shared(about.filesystem_type()))
}

fn is_shared(FsType(magic): FsType) -> bool {
    SHARED_FILE_SYSTEMS.contains(&(magic as u32))
}

/// That of the user, which is made if it is not there: whole from the first moment, and by one only, whoever comes at
/// the same time from wherever.
fn of_user(path: &Path) -> Result<Secret, Error> {
    let there = || match path.symlink_metadata() {
        Ok(data) if data.uid() != nix::unistd::geteuid().as_raw() => {
            Err(Error::system(format!("{} is somebody else's", path.display()), libc::EPERM))
        }
        Ok(_) => Secret::of_file(path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_make(path, &error)),
    };
    if let Some(secret) = there()? {
        return Ok(secret);
    }
    make(path).map_err(|error| cannot_make(path, &error))?;
    there()?.ok_or_else(|| cannot_make(path, &Errno::ENOENT.into()))
}

fn make(path: &Path) -> std::io::Result<()> {
    let digits: String = random::bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // One name for each that makes it: hosts share the directory.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", &digits[..16]));
    let digits = digits[16..].to_string();
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(
        |mut file| {
            file.write_all(digits.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        },
    );
    let linked = written.and_then(|()| match std::fs::hard_link(&draft, path) {
        // Somebody else was quicker.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _ = std::fs::remove_file(&draft);
    linked
}

fn cannot_make(path: &Path, error: &std::io::Error) -> Error {
    Error::system(
        format!("cannot make the secret of the user's agents, {}", path.display()),
        error.raw_os_error().unwrap_or(libc::EIO),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        set: &[(&str, &str)],
        variables: &[(&str, &str)],
        host: &str,
        shared: bool,
    ) -> Result<Source, Error> {
        let mut options = Options::default();
        set.iter().for_each(|(key, value)| options.set(key, value).unwrap());
        let var = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes().to_vec())
        };
        Source::of(&options, var, host, shared)
    }

    #[test]
    fn sec_03_where_the_secret_comes_from() {
        let home = [("HOME", "/nowhere")];
        let own = Source::OfUser("/nowhere/.config/libice/rendezvous_secret".into());
        // All agents of an endpoint that only one host has find the same home.
        assert_eq!(of(&[], &home, "localhost", false), Ok(own.clone()));
        assert_eq!(of(&[], &home, "127.0.0.1", false), Ok(own.clone()));
        // This machine's root is no shared file system, nor do torch's workers have a secret to tell.
        assert_eq!(of(&[], &home, "10.0.0.1", false), Ok(Source::Nothing));
        assert_eq!(of(&[], &home, "localhost", true), Ok(Source::Nothing));
        assert_eq!(of(&[("secret_file", "none")], &home, "localhost", false), Ok(Source::Nothing));
        assert_eq!(of(&[], &[], "localhost", false), Ok(Source::Nothing));
        let config = [("HOME", "/nowhere"), ("XDG_CONFIG_HOME", "/config")];
        let of_config = Source::OfUser("/config/libice/rendezvous_secret".into());
        assert_eq!(of(&[], &config, "localhost", false), Ok(of_config));
        let named = [("secret_file", "/a")];
        let given = [("HOME", "/nowhere"), (RENDEZVOUS_SECRET, "sixteen bytes or more")];
        assert_eq!(of(&named, &given, "10.0.0.1", true), Ok(Source::File("/a".into())));
        let secret = Secret::new(b"sixteen bytes or more").unwrap();
        assert_eq!(of(&[], &given, "10.0.0.1", true), Ok(Source::Given(secret)));
        let short = of(&[], &[(RENDEZVOUS_SECRET, "short")], "10.0.0.1", false).unwrap_err().to_string();
        assert!(short.starts_with("config error: ICE_RENDEZVOUS_SECRET is \"5 bytes long\""), "{short}");
    }

    #[test]
    fn sec_03_the_users_secret_is_made_once() {
        let directory = std::env::temp_dir().join(format!("libice-secret-{}", std::process::id()));
        let path = directory.join("a/b");
        let secrets: Vec<Secret> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| of_user(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        let left: Vec<_> =
            directory.join("a").read_dir().unwrap().flatten().map(|file| file.file_name()).collect();
        assert_eq!(left, ["b"]);
        let mode = path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
