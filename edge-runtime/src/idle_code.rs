//! Code that nobody runs takes no memory.
//!
//! Preparing a component touches most pages of its compiled file, and starting
//! up touches many of the program's own; the kernel keeps them mapped until
//! memory is short. They are let go when that is over: what is then run comes
//! back from the page cache.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::mm::{Advice, madvise};

/// One entry of `/proc/self/pagemap`: present, and backed by its file, which a
/// page with changes of its own is not (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const ENTRY_BYTES: usize = 8;

/// Unmaps the unchanged pages of a file mapped at `range`.
pub(crate) fn let_go(range: Range<*const u8>) {
    if let Err(error) = unmap(range.start as usize..range.end as usize) {
        tracing::debug!("the pages of compiled code stay mapped: {error}");
    }
}

/// Unmaps the program's own code, once it has started up.
pub(crate) fn let_go_of_start() {
    let unmapped = own_code().and_then(|ranges| ranges.into_iter().try_for_each(unmap));
    if let Err(error) = unmapped {
        tracing::debug!("the program's pages stay mapped: {error}");
    }
}

/// Where the program's file is mapped to be run.
fn own_code() -> io::Result<Vec<Range<usize>>> {
    let program = std::env::current_exe()?;
    let program = program.to_string_lossy();
    let maps = fs::read_to_string("/proc/self/maps")?;
    let ranges = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        if !rest.starts_with("r-xp") || !rest.ends_with(&*program) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(address(start)?..address(end)?)
    });
    Ok(ranges.collect())
}

fn unmap(range: Range<usize>) -> io::Result<()> {
    let page = rustix::param::page_size();
    let pages = range.start.div_ceil(page)..range.end / page;
    let mut entries = vec![0; pages.len() * ENTRY_BYTES];
    let pagemap = File::open("/proc/self/pagemap")?;
    pagemap.read_exact_at(&mut entries, (pages.start * ENTRY_BYTES) as u64)?;
    let clean = entries.chunks_exact(ENTRY_BYTES).map(|entry| {
        let entry = u64::from_ne_bytes(entry.try_into().expect("chunks have this size"));
        entry & PRESENT != 0 && entry & OF_FILE != 0
    });
    let mut run = pages.start..pages.start;
    for (number, clean) in pages.zip(clean) {
        if !clean {
            drop_run(&run, page)?;
            run.start = number + 1;
        }
        run.end = number + 1;
    }
    drop_run(&run, page)
}

fn drop_run(run: &Range<usize>, page: usize) -> io::Result<()> {
    if run.is_empty() {
        return Ok(());
    }
    let at = std::ptr::without_provenance_mut(run.start * page);
    #[expect(unsafe_code, reason = "advice on a mapping that others have made")]
    // SAFETY: these are clean pages of a private file mapping that stays mapped: the program's
    // own, or that of a component which the caller holds. Code is read-only once it is loaded, so
    // they hold what the file holds, and reading them again gives the same.
    unsafe {
        madvise(at, run.len() * page, Advice::LinuxDontNeed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_program_finds_its_own_code() {
        let here = the_program_finds_its_own_code as fn() as usize;
        let code = own_code().unwrap();
        assert!(code.iter().any(|range| range.contains(&here)));
        let_go_of_start();
    }

    #[test]
    fn clean_pages_of_a_file_go_and_read_the_same_again() {
        let page = rustix::param::page_size();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 4 * page]).unwrap();
        #[expect(unsafe_code, reason = "maps a file as wasmtime does")]
        // SAFETY: the mapping is new, its file is as long, and nothing else knows it.
        let mapped = unsafe {
            let (read_write, private) = (
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            );
            let at = rustix::mm::mmap(
                std::ptr::null_mut(),
                4 * page,
                read_write,
                private,
                &file,
                0,
            );
            std::slice::from_raw_parts_mut(at.unwrap().cast::<u8>(), 4 * page)
        };
        assert!(mapped.iter().all(|byte| *byte == 7));
        mapped[page] = 8;
        let resident = |mapped: &[u8]| {
            let first = mapped.as_ptr() as usize / page;
            let pagemap = File::open("/proc/self/pagemap").unwrap();
            let present = (first..first + 4).map(|number| {
                let mut entry = [0; ENTRY_BYTES];
                pagemap
                    .read_exact_at(&mut entry, (number * ENTRY_BYTES) as u64)
                    .unwrap();
                u64::from_ne_bytes(entry) & PRESENT != 0
            });
            present.collect::<Vec<_>>()
        };
        assert_eq!(resident(mapped), [true; 4]);
        let_go(mapped.as_ptr_range());
        assert_eq!(resident(mapped), [false, true, false, false]);
        let expected = [vec![7; page], vec![8], vec![7; 3 * page - 1]].concat();
        assert!(mapped == expected);
    }
}
