//! The system call filter of the sandbox, written out by hand.
//!
//! The sandbox has no capability, so most of this list is refused anyway; the filter
//! keeps the kernel code behind it out of reach. What costs MPI or a debugger something
//! stays allowed: `process_vm_readv`, `ptrace` of one's own, shared memory.

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// `open_tree_attr`, which libc does not know yet.
const OPEN_TREE_ATTR: libc::c_long = 467;
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name,)* OPEN_TREE_ATTR] };
}

/// Refused whatever the arguments are.
const REFUSED: &[libc::c_long] = calls! {
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_setns SYS_fsopen SYS_fsconfig SYS_fsmount
    SYS_fspick SYS_open_tree SYS_move_mount SYS_mount_setattr SYS_open_by_handle_at SYS_keyctl
    SYS_add_key SYS_request_key SYS_bpf SYS_userfaultfd SYS_perf_event_open SYS_io_uring_setup
    SYS_io_uring_enter SYS_io_uring_register SYS_kexec_load SYS_kexec_file_load SYS_init_module
    SYS_finit_module SYS_delete_module SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl
    SYS_syslog SYS_quotactl_fd SYS_lookup_dcookie
};

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// Address families that belong to a network namespace; others (vsock, alg, ...) do not.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    // The low half; both supported machines are little endian.
    16 + 8 * index
}

fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

fn give(k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k }
}

fn errno(number: i32) -> libc::sock_filter {
    give(libc::SECCOMP_RET_ERRNO | number as u32)
}

/// The program: a straight list of "if it is this call, then ...".
pub fn program() -> Vec<libc::sock_filter> {
    let mut code =
        vec![load(ARCH), jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0), errno(libc::ENOSYS), load(NUMBER)];
    // x32 calls have their own numbers for everything above.
    code.extend([jump(libc::BPF_JGE, 0x4000_0000, 0, 1), errno(libc::ENOSYS)]);
    // Its flags lie in memory, where a filter cannot look: libc falls back to clone.
    code.extend([jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1), errno(libc::ENOSYS)]);
    for &call in REFUSED {
        code.extend([jump(libc::BPF_JEQ, call as u32, 0, 1), errno(libc::EPERM)]);
    }
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        code.extend([
            jump(libc::BPF_JEQ, call as u32, 0, 4),
            load(argument(0)),
            jump(libc::BPF_JSET, NEW_NAMESPACES, 0, 1),
            errno(libc::EPERM),
            give(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    // Typing into the terminal that the sandbox was started from.
    code.extend([
        jump(libc::BPF_JEQ, libc::SYS_ioctl as u32, 0, 5),
        load(argument(1)),
        jump(libc::BPF_JEQ, libc::TIOCSTI as u32, 1, 0),
        jump(libc::BPF_JEQ, libc::TIOCLINUX as u32, 0, 1),
        errno(libc::EPERM),
        give(libc::SECCOMP_RET_ALLOW),
    ]);
    code.extend([jump(libc::BPF_JEQ, libc::SYS_socket as u32, 0, 7), load(argument(0))]);
    for (index, family) in FAMILIES.into_iter().enumerate() {
        code.push(jump(libc::BPF_JEQ, family as u32, (FAMILIES.len() - index) as u8, 0));
    }
    code.extend([errno(libc::EAFNOSUPPORT), give(libc::SECCOMP_RET_ALLOW), give(libc::SECCOMP_RET_ALLOW)]);
    code
}
