#!/bin/bash
# A38 tracing the agent and init; reading each other's memory is the ranks' own affair
# where: inside
. "$ATTACKS/lib.sh"
ls /proc/*/exe >/dev/null 2>&1
ps -eo args | grep -E 'node-[a]gent' && fell "the agent can be seen"
cat >/tmp/try.c <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    char here[16] = "", *there = (char *)main;
    struct iovec l = { here, 16 }, r = { there, 16 };
    if (ptrace(PTRACE_ATTACH, 1, 0, 0) == 0 || ptrace(PTRACE_SEIZE, 1, 0, 0) == 0) { puts("traced init"); return 1; }
    if (process_vm_readv(1, &l, 1, &r, 1, 0) > 0) { puts("read init"); return 1; }
    static char secret[16] = "of my own rank"; r.iov_base = secret;
    pid_t child = fork();
    if (!child) { pause(); _exit(0); }
    long n = process_vm_readv(child, &l, 1, &r, 1, 0);
    kill(child, 9); waitpid(child, 0, 0);
    if (n != 16) { puts("ranks cannot read each other: MPI would be slow"); return 1; }
    return 0;
}
C
gcc -w -include signal.h -o /tmp/try /tmp/try.c || impossible "no gcc inside"
/tmp/try || fell "wrong"
