#!/bin/bash
# A19 home and ~/.ssh swapped with symbolic links in a loop while sandboxes are built
# where: node
# audit: LOOPS build a-
# audit: * refused: 
# audit: * torn down
# loops: 60 10000
. "$ATTACKS/lib.sh"
need gcc
cat >swap.c <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int c, char **v) {
    chdir(v[1]);
    mkdir("real", 0700); symlink("/etc", "link"); mkdir(".ssh", 0700);
    for (long n = 0;; n++) {
        syscall(SYS_renameat2, AT_FDCWD, ".ssh", AT_FDCWD, n & 1 ? "link" : "real", 2 /* EXCHANGE */);
        if (n % 7 == 0) { unlink(".ssh"); rmdir(".ssh"); symlink("/opt/secrets", ".ssh"); }
        if (n % 7 == 3) { unlink(".ssh"); mkdir(".ssh", 0700); }
        if (n % 64 == 0) usleep(50);
    }
}
C
gcc -O1 -o swap swap.c || impossible "gcc does not work"
before=$(find /etc /opt/home/other -maxdepth 2 2>/dev/null | sort | cksum)
./swap "$HOME" & swapper=$!
trap 'kill $swapper' EXIT
built=0
for _ in $(seq "$LOOPS"); do
    # Built or refused, both are right; what must not be is a mount or a file elsewhere.
    if "$PILOT" build "expect built" "inside touch ~/.ssh/mark 2>/dev/null; true" teardown "expect gone" 2>said; then
        built=$((built + 1))
    else
        grep -qE 'MountSsh|OpenHome|MountHome|Serve|SandboxDied|Broken pipe|init is gone|not started' said || fell "$(cat said)"
    fi
    [ -e /etc/mark ] && fell "a file on the node"
    grep -E ' /etc/[^ ]* | /opt/secrets' /proc/self/mountinfo | grep -v '^.* /etc/gridpilot' && fell "a mount on the node"
done
[ "$before" = "$(find /etc /opt/home/other -maxdepth 2 2>/dev/null | sort | cksum)" ] || fell "files elsewhere changed"
test -z "$(find "$HOME" /etc /opt -newer swap.c -uid 0 ! -type d ! -path '/opt/sockets/*' ! -path '/opt/upper/*' 2>/dev/null)" || fell "files of root"
test -z "$(find "$HOME" -uid 0)" || fell "files of root in the home"
echo "built $built of $LOOPS"
