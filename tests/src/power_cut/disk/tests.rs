use super::*;

#[derive(Clone, Copy)]
enum Do {
    Write(u8),
    Begin(u64),
    End(u64),
}
use Do::{Begin, End, Write};

/// What a cut that keeps nothing unsynced leaves of a page.
fn durable_after(done: &[Do]) -> Result<u8> {
    let before = tempfile::tempdir()?;
    let page = before.path().join("page");
    std::fs::write(&page, [0; PAGE])?;
    let inode = page.metadata()?.ino();
    let mut disk = Disk::load(before.path(), Cache::Volatile)?;
    for step in done {
        disk.follow(&match *step {
            Write(value) => Entry::Write {
                inode,
                offset: 0,
                data: vec![value; PAGE],
            },
            Begin(id) => Entry::SyncBegin {
                id,
                inode,
                how: How::Fdatasync,
                offset: 0,
                bytes: 0,
            },
            End(id) => Entry::SyncEnd { id },
        })?;
    }
    let after = tempfile::tempdir()?;
    disk.cut(after.path(), 0, &mut Dice::new(1))?;
    Ok(std::fs::read(after.path().join("page"))?[0])
}

#[test]
fn a_page_is_durable_as_the_sync_that_began_last_has_found_it() -> Result<()> {
    for (first, second) in [(1, 2), (2, 1)] {
        let done = [Write(1), Begin(first), Write(2), Begin(second)];
        let ends = [End(second), End(first)];
        assert_eq!(durable_after(&done)?, 0);
        assert_eq!(durable_after(&[&done[..], &ends[..1]].concat())?, 2);
        assert_eq!(durable_after(&[&done[..], &ends[..]].concat())?, 2);
    }
    Ok(())
}

#[test]
fn a_sync_waits_for_what_another_has_under_way() -> Result<()> {
    let done = [Write(1), Begin(1), Begin(2), End(2)];
    assert_eq!(durable_after(&done)?, 1);
    Ok(())
}

#[test]
fn a_sync_does_not_bring_back_what_an_older_one_under_way_has_found() -> Result<()> {
    let done = [
        Write(1),
        Begin(1),
        Write(2),
        Begin(2),
        End(2),
        Begin(3),
        End(3),
    ];
    assert_eq!(durable_after(&done)?, 2);
    assert_eq!(durable_after(&[&done[..], &[End(1)]].concat())?, 2);
    Ok(())
}
