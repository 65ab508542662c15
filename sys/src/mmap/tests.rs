//! Files that are cut off under their map, and kernels that do not let the map be read.

use std::io::Write;

use super::*;

/// On a disk, where a page behind the end is a SIGBUS as soon as it is touched.
fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn some_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8 + 1).collect()
}

fn read(file: &MappedFile, offset: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let read = file.read_at(offset, &mut buffer).unwrap();
    buffer.truncate(read);
    buffer
}

#[test]
fn any_part_of_a_file_comes_out_of_its_map() {
    let data = some_bytes(3 * 1024 * 1024 + 17);
    let file = MappedFile::new(file_of(&data), data.len() as u64);
    assert!(file.is_mapped());
    for (offset, len) in [(0, 1), (4095, 2), (0, data.len()), (70_000, 2 << 20)] {
        assert!(read(&file, offset as u64, len) == data[offset..offset + len]);
        // The map alone gives all of it.
        let mut copied = vec![0; len];
        let map = file.map.as_ref().unwrap();
        assert_eq!(map.copy_out(offset as u64, &mut copied), len);
        assert!(copied == data[offset..offset + len]);
    }
}

#[test]
fn what_is_behind_the_map_is_not_taken_out_of_other_memory() {
    let data = some_bytes(10_000);
    let file = MappedFile::new(file_of(&data), 5_000);
    let map = file.map.as_ref().unwrap();
    let mut buffer = vec![0; 10_000];
    assert_eq!(map.copy_out(0, &mut buffer), 5_000);
    assert_eq!(map.copy_out(4_999, &mut buffer), 1);
    for offset in [5_000, 5_001, 4096 * 100, u64::MAX] {
        assert_eq!(map.copy_out(offset, &mut buffer), 0);
    }
    // The file has it.
    assert!(read(&file, 0, 20_000) == data);
    assert_eq!(read(&file, 10_000, 1), []);
}

#[test]
fn a_file_cut_off_under_its_map_is_fewer_bytes() {
    let data = some_bytes(1 << 20);
    let file = MappedFile::new(file_of(&data), data.len() as u64);
    assert_eq!(read(&file, 0, 1 << 20).len(), 1 << 20);
    file.file().set_len(300_000).unwrap();
    assert!(read(&file, 0, 1 << 20)[..300_000] == data[..300_000]);
    assert_eq!(read(&file, 500_000, 100), []);
    // 300,000 is within a page, of which the rest is zeros: who reads has to look at the length.
    let page_end = 300_000usize.next_multiple_of(4096);
    assert!(read(&file, 0, 1 << 20).len() <= page_end);
    file.file().set_len(0).unwrap();
    assert_eq!(read(&file, 0, 1 << 20), []);
}

#[test]
fn what_cannot_be_mapped_is_read() {
    let empty = MappedFile::new(file_of(b""), 0);
    assert!(!empty.is_mapped());
    assert_eq!(read(&empty, 0, 10), []);
    // Files of procfs have no length and no map.
    let proc = MappedFile::new(File::open("/proc/self/status").unwrap(), 4096);
    assert!(!proc.is_mapped());
    assert!(read(&proc, 0, 5) == b"Name:");
    let longest = MappedFile::new(file_of(b"few"), u64::MAX);
    assert!(!longest.is_mapped());
    assert!(read(&longest, 1, 10) == b"ew");
}

/// Has the kernel answer EPERM to process_vm_readv(2) on this thread from now on.
fn forbid_the_call() {
    let op = |code: u32, jump_true, k| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: 0,
        k,
    };
    // The number of the call is the first word of struct seccomp_data.
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            libc::SYS_process_vm_readv as u32,
        ),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        op(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: both calls change nothing but what this thread may do; the program outlives the one
    // that copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter
            ),
            0
        );
    }
}

#[test]
fn where_a_filter_forbids_the_call_the_file_is_read() {
    let data = some_bytes(100_000);
    let file = MappedFile::new(file_of(&data), data.len() as u64);
    let thread = std::thread::spawn(move || {
        forbid_the_call();
        let map = file.map.as_ref().unwrap();
        assert_eq!(map.copy_out(0, &mut [0; 100]), 0);
        assert!(read(&file, 7, 90_000) == data[7..90_007]);
    });
    thread.join().unwrap();
}
