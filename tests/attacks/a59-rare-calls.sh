#!/bin/bash
# A59 io_uring, new mount calls, bpf, keys, userfaultfd and other rare system calls
# where: inside
. "$ATTACKS/lib.sh"
cat >/tmp/calls.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#define NO(name, ...) do { errno = 0; long r = syscall(__VA_ARGS__); if (r >= 0 || (errno != EPERM && errno != ENOSYS)) { printf("%s: %ld %s\n", name, r, strerror(errno)); bad = 1; } } while (0)
int main(void) {
    int bad = 0; char page[4096] = "";
    NO("io_uring_setup", 425, 8, page); NO("io_uring_enter", 426, 0, 0, 0, 0, 0); NO("io_uring_register", 427, 0, 0, 0, 0);
    NO("open_tree", 428, -100, "/", 1); NO("move_mount", 429, -100, "/", -100, "/tmp", 0); NO("fsopen", 430, "tmpfs", 0);
    NO("fsconfig", 431, 0, 6, 0, 0, 0); NO("fsmount", 432, 0, 0, 0); NO("fspick", 433, -100, "/", 0); NO("mount_setattr", 442, -100, "/", 0, page, 32);
    NO("open_tree_attr", 467, -100, "/", 1, page, 32); NO("bpf", SYS_bpf, 5, page, 120); NO("userfaultfd", SYS_userfaultfd, 0);
    NO("keyctl", SYS_keyctl, 0, -3, 1); NO("add_key", SYS_add_key, "user", "x", "y", 1, -3); NO("request_key", SYS_request_key, "user", "x", 0, -3);
    NO("perf_event_open", SYS_perf_event_open, page, 0, -1, -1, 0); NO("kexec_load", SYS_kexec_load, 0, 0, 0, 0); NO("init_module", SYS_init_module, page, 1, "");
    NO("swapon", SYS_swapon, "/tmp", 0); NO("acct", SYS_acct, "/tmp/a"); NO("syslog", SYS_syslog, 3, page, 100); NO("reboot", SYS_reboot, 0xfee1dead, 672274793, 0, 0);
    NO("quotactl", SYS_quotactl, 0, "/", 0, page);
    /* x32 numbers, and families that belong to no network namespace. */
    NO("x32", 0x40000000L + 20, 0); 
    for (int family = 0; family < 46; family++) {
        int s = socket(family, SOCK_RAW, 0); if (s >= 0 && family != AF_NETLINK && family != AF_UNIX) { printf("raw socket of family %d\n", family); bad = 1; }
        s = socket(family, SOCK_STREAM, 0); if (s >= 0 && family != 1 && family != 2 && family != 10) { printf("socket of family %d\n", family); bad = 1; }
    }
    /* 32-bit calls by their own gate have their own numbers. */
    long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(21L), "b"(0L), "c"(0L), "d"(0L), "S"(0L), "D"(0L)); if (r >= 0) { puts("a 32-bit mount"); bad = 1; }
    return bad;
}
C
gcc -w -o /tmp/calls /tmp/calls.c || impossible "no gcc inside"
/tmp/calls || fell "not refused"
