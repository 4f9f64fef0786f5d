//! The enrolled keywords, as their folder has them now.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::chain::Chain;
use crate::keyword::{Keyword, KeywordError, PackRef, find, load};

/// A folder of keyword files. A file is parsed again only if it has changed.
#[derive(Debug)]
pub struct Enrolled {
    folder: PathBuf,
    pack: PackRef,
    files: Mutex<HashMap<PathBuf, File>>,
}

/// A file as it was read last.
#[derive(Debug)]
struct File {
    stamp: Option<(SystemTime, u64)>,
    /// None if it cannot be used; the reason is in the log.
    keyword: Option<Arc<Keyword>>,
}

impl Enrolled {
    /// The keywords in `folder` that were enrolled with `pack`. The folder need not exist yet.
    pub fn new(folder: &Path, pack: PackRef) -> Self {
        Self { folder: folder.to_owned(), pack, files: Mutex::default() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The keywords of today, by file name. One that cannot be used is logged once and left out.
    pub fn read(&self) -> Vec<(PathBuf, Arc<Keyword>)> {
        let paths = match find(&self.folder) {
            Ok(paths) => paths,
            Err(KeywordError::NoKeywords { .. }) => Vec::new(),
            Err(KeywordError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                log::warn!("{}", Chain(&error));
                Vec::new()
            }
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|path, _| paths.contains(path));
        let mut keywords = Vec::new();
        for path in paths {
            let stamp = stamp(&path);
            let file = match files.get(&path) {
                Some(file) if file.stamp == stamp && stamp.is_some() => file,
                _ => {
                    let keyword = load(&path, Some(&self.pack)).inspect_err(|error| log::warn!("{}", Chain(error)));
                    files.insert(path.clone(), File { stamp, keyword: keyword.ok().map(Arc::new) });
                    match files.get(&path) {
                        Some(file) => file,
                        None => continue,
                    }
                }
            };
            keywords.extend(file.keyword.clone().map(|keyword| (path, keyword)));
        }
        keywords
    }
}

/// Time of the last change, and size.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
