//! Compiled code that nobody runs takes no memory.
//!
//! Preparing a component touches most of its file's pages, and the kernel keeps
//! them mapped until memory is short. They are let go once the component has
//! been tried; what is then run comes back from the page cache.

use std::fs::File;
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
pub(super) fn let_go(range: Range<*const u8>) {
    if let Err(error) = unmap(range.start as usize..range.end as usize) {
        tracing::debug!("the pages of compiled code stay mapped: {error}");
    }
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
    for (number, _) in pages.zip(clean).filter(|(_, clean)| *clean) {
        let at = std::ptr::without_provenance_mut(number * page);
        #[expect(
            unsafe_code,
            reason = "advice on a mapping that another crate has made"
        )]
        // SAFETY: the page is a clean page of a private file mapping that stays mapped while its
        // component lives, which the caller holds. Code is read-only once it is loaded, so the
        // page holds what the file holds, and reading it again gives the same.
        unsafe {
            madvise(at, page, Advice::LinuxDontNeed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

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
