use super::*;
use std::os::unix::fs::symlink;

struct Fixture {
    temporary: tempfile::TempDir,
    source: FileSource,
    now: Instant,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(temporary.path().join(name), text).unwrap();
        }
        let (source, _) = FileSource::open(temporary.path()).unwrap();
        Self { temporary, source, now: Instant::now() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn rename_into(&self, name: &str, text: &str) {
        let temporary = self.path(".new");
        fs::write(&temporary, text).unwrap();
        // However coarse the file system's clock is.
        let written = SystemTime::now() - Duration::from_secs(1);
        fs::File::options().write(true).open(&temporary).unwrap().set_modified(written).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// One look, `after` later.
    fn poll(&mut self, after: Duration) -> Option<Vec<(String, String)>> {
        self.now += after;
        let documents = self.source.poll(self.now).unwrap()?;
        Some(documents.files.into_iter().map(|file| (file.name, file.text)).collect())
    }

    /// Looks until nothing is about to come any more.
    fn quiet(&mut self) {
        while self.source.recheck || self.source.pending.is_some() {
            self.poll(COALESCE);
        }
    }
}

fn pairs(files: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
}

#[test]
fn a_rename_is_taken_in_at_the_first_look() {
    let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yml", "1"), ("c.txt", "no")]);
    fixture.quiet();
    assert_eq!(fixture.poll(INTERVAL), None);
    fixture.rename_into("a.yaml", "2");
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "2"), ("b.yml", "1")]));
    assert_eq!(fixture.poll(INTERVAL), None);
}

#[test]
fn what_was_written_in_place_appeared_or_vanished_must_look_the_same_twice() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fixture.quiet();
    fs::write(fixture.path("a.yaml"), "").unwrap();
    assert_eq!(fixture.poll(INTERVAL), None, "truncated, not yet written");
    fs::write(fixture.path("a.yaml"), "two").unwrap();
    assert_eq!(fixture.poll(INTERVAL), None);
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two")]));

    fs::write(fixture.path("b.yaml"), "b").unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two"), ("b.yaml", "b")]));

    // As editors do that move the old file away first.
    fs::remove_file(fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    fs::write(fixture.path("a.yaml"), "three").unwrap();
    assert_eq!(fixture.poll(INTERVAL), None);
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "three"), ("b.yaml", "b")]));

    fs::remove_file(fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("b.yaml", "b")]));
}

#[test]
fn edits_in_a_burst_are_taken_in_together() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fixture.quiet();
    fixture.rename_into("a.yaml", "2");
    assert!(fixture.poll(COALESCE).is_some());
    for text in ["3", "4"] {
        fixture.rename_into("a.yaml", text);
        assert_eq!(fixture.poll(INTERVAL), None);
    }
    assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "4")]));
}

#[test]
fn a_config_maps_swapped_link_is_seen() {
    let temporary = tempfile::tempdir().unwrap();
    for (directory, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(temporary.path().join(directory)).unwrap();
        fs::write(temporary.path().join(directory).join("a.yaml"), text).unwrap();
    }
    symlink("..1", temporary.path().join("..data")).unwrap();
    symlink("..data/a.yaml", temporary.path().join("a.yaml")).unwrap();
    let (source, first) = FileSource::open(temporary.path()).unwrap();
    assert_eq!(first.files.len(), 1, "the files behind the links are not read twice");
    let mut fixture = Fixture { temporary, source, now: Instant::now() };
    fixture.quiet();
    symlink("..2", fixture.path("..data_tmp")).unwrap();
    fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    assert_eq!(fixture.poll(INTERVAL), pairs(&[("a.yaml", "two")]));
}

#[test]
fn a_second_change_in_the_same_instant_is_not_lost() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    // It was read as it was being written: the clock is too coarse to tell the two apart.
    let source = &mut fixture.source;
    source.documents.files[0].text = "0".to_owned();
    source.read = source.taken[0].modified.unwrap();
    source.recheck = source.taken[0].is_young(source.read);
    assert!(source.recheck);
    assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "1")]));
    fixture.quiet();
    assert_eq!(fixture.poll(COALESCE), None);
}

#[test]
fn an_edit_that_was_read_while_another_was_made_is_not_lost() {
    let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yaml", "1")]);
    fixture.quiet();
    fixture.rename_into("b.yaml", "2");
    let seen = fixture.source.look().unwrap();
    let mut source =
        std::mem::replace(&mut fixture.source, FileSource::open(fixture.temporary.path()).unwrap().0);
    let whole = source.take_whole(seen, |source| {
        fixture.rename_into("a.yaml", "2");
        source.look()
    });
    assert!(!whole.unwrap(), "half of it is from before, half from after");
    fixture.source = source;
    assert_eq!(fixture.poll(COALESCE), pairs(&[("a.yaml", "2"), ("b.yaml", "2")]));
}

#[test]
fn a_look_that_took_long_puts_the_next_one_off_by_no_more_than_a_second() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    assert_eq!(fixture.source.interval(), INTERVAL);
    fixture.source.cost = Duration::from_millis(1);
    assert_eq!(fixture.source.interval(), Duration::from_millis(50));
    fixture.source.cost = Duration::from_secs(3);
    assert_eq!(fixture.source.interval(), INTERVAL_MAX);
}

#[test]
fn subdirectories_are_read_and_what_cannot_be_read_is_named() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fs::create_dir(fixture.path("team")).unwrap();
    fs::write(fixture.path("team/b.yaml"), "2").unwrap();
    fs::write(fixture.path("bad.yaml"), [0xff, 0xfe]).unwrap();
    symlink("nowhere", fixture.path("lost.yaml")).unwrap();
    assert_eq!(fixture.poll(COALESCE), None, "seen, and to be seen once more");
    fixture.quiet();
    let documents = &fixture.source.documents;
    let names: Vec<_> = documents.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a.yaml", "team/b.yaml"]);
    let names: Vec<_> = documents.unreadable.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["bad.yaml", "lost.yaml"]);
}

#[test]
fn a_directory_that_is_gone_is_an_error_and_not_an_empty_configuration() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fs::rename(fixture.temporary.path(), fixture.temporary.path().with_extension("away")).unwrap();
    assert!(fixture.source.poll(fixture.now).is_err());
    fs::rename(fixture.temporary.path().with_extension("away"), fixture.temporary.path()).unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    assert!(FileSource::open(&fixture.path("none")).is_err());
}

#[test]
fn a_directory_that_is_emptied_is_an_error_and_one_empty_file_is_not() {
    let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yaml", "1")]);
    fixture.quiet();
    for name in ["a.yaml", "b.yaml"] {
        fs::remove_file(fixture.path(name)).unwrap();
    }
    for _ in 0..3 {
        fixture.now += COALESCE;
        assert!(fixture.source.poll(fixture.now).is_err(), "as where nothing is mounted");
    }
    assert_eq!(fixture.source.files().len(), 2);
    fs::write(fixture.path("none.yaml"), "").unwrap();
    assert_eq!(fixture.poll(COALESCE), None);
    assert_eq!(fixture.poll(COALESCE), pairs(&[("none.yaml", "")]));
}

#[test]
fn a_file_that_could_not_be_read_is_tried_again_though_it_looks_the_same() {
    let mut fixture = Fixture::new(&[("a.yaml", "1"), ("b.yaml", "1")]);
    fixture.quiet();
    // As if there had been no file descriptor left for it.
    let documents = &mut fixture.source.documents;
    let lost = documents.files.pop().unwrap();
    documents.unreadable = vec![UnreadableFile { name: lost.name, reason: "too many open files".to_owned() }];
    fixture.source.retry_later(fixture.now);
    assert_eq!(fixture.poll(READ_RETRY / 2), None);
    assert_eq!(fixture.poll(READ_RETRY / 2), pairs(&[("a.yaml", "1"), ("b.yaml", "1")]));
    assert!(fixture.source.documents.unreadable.is_empty() && fixture.source.retry.is_none());
}

#[test]
fn a_file_whose_name_is_not_utf_8_is_named_and_not_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fixture.quiet();
    let name = std::ffi::OsStr::from_bytes(b"d\xe9ny.yaml");
    fs::write(fixture.temporary.path().join(name), "2").unwrap();
    fixture.quiet();
    fixture.poll(INTERVAL);
    fixture.quiet();
    let unreadable = &fixture.source.documents.unreadable;
    assert_eq!(unreadable.len(), 1);
    assert!(unreadable[0].name == "d\u{fffd}ny.yaml" && unreadable[0].reason.contains("UTF-8"));
}

#[test]
fn more_than_can_be_held_is_an_error_and_what_was_held_stays() {
    let mut fixture = Fixture::new(&[("a.yaml", "1")]);
    fixture.quiet();
    for number in 0..17 {
        let file = fs::File::create(fixture.path(&format!("large-{number}.yaml"))).unwrap();
        // Without content on the disk.
        file.set_len(FILE_LENGTH_MAX).unwrap();
    }
    let error = fixture.source.poll(fixture.now).unwrap_err();
    assert!(crate::chain(&error).contains("256 MiB"), "{error:?}");
    assert_eq!(fixture.source.files().len(), 1);
}
