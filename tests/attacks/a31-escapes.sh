#!/bin/bash
# A31 mounts, namespaces, chroot, pivot_root, file handles
# where: inside
. "$ATTACKS/lib.sh"
mkdir -p /tmp/m
for words in "mount -t tmpfs none /tmp/m" "mount --bind / /tmp/m" "mount -o remount,rw,suid /" "umount /proc" "umount -l /" \
    "unshare -U true" "unshare -Ur true" "unshare -m true" "unshare -p true" "unshare -i true" "unshare -u true" "unshare -C true" \
    "unshare -Urm mount -t overlay overlay -o lowerdir=/,upperdir=/tmp,workdir=/tmp /tmp/m" \
    "nsenter -t 1 -m true" "nsenter -t 1 -n true" "nsenter -t 1 -p true" "chroot / true" "chroot /tmp/m true" "pivot_root / /tmp/m"; do
    must_fail env PATH="$PATH:/usr/sbin:/sbin" $words
done
cat >/tmp/try.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static int bad;
static void no(const char *name, long result) {
    if (result >= 0 || (errno != EPERM && errno != ENOSYS && errno != EACCES)) { printf("%s: %ld %s\n", name, result, strerror(errno)); bad = 1; }
}
int main(void) {
    struct { struct file_handle h; char more[128]; } handle = { .h = { .handle_bytes = 128 } };
    int mount_id;
    name_to_handle_at(AT_FDCWD, "/", &handle.h, &mount_id, 0);
    no("open_by_handle_at", syscall(SYS_open_by_handle_at, open("/", O_RDONLY), &handle.h, O_RDONLY));
    struct { unsigned long flags, pidfd, ct, pt, exit, stack, size, tls, st, ss, cg; } args = { .flags = CLONE_NEWUSER, .exit = 17 };
    no("clone3", syscall(SYS_clone3, &args, sizeof args));
    no("clone user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    no("clone net", syscall(SYS_clone, CLONE_NEWNET | 17, 0, 0, 0, 0));
    no("setns", syscall(SYS_setns, open("/proc/1/ns/net", O_RDONLY), 0));
    no("setns own", syscall(SYS_setns, open("/proc/self/ns/mnt", O_RDONLY), 0));
    no("chroot", syscall(SYS_chroot, "/tmp"));
    no("pivot_root", syscall(SYS_pivot_root, "/", "/tmp"));
    no("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    no("umount2", syscall(SYS_umount2, "/tmp", 2));
    no("mknod", syscall(SYS_mknodat, AT_FDCWD, "/tmp/dev", 0060666, 0xfe00));
    no("iopl", syscall(SYS_iopl, 3));
    return bad;
}
C
gcc -w -o /tmp/try /tmp/try.c || impossible "no gcc inside"
/tmp/try || fell "a call was not refused"
