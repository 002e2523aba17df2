#!/bin/bash
# A10 tracing, memory, environment, limits of the monitor and of the agent
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
cat >look <<'S'
for pid in $MONITOR $AGENT; do
    for file in mem environ maps fd/3 stack syscall; do
        cat /proc/$pid/$file >/dev/null 2>&1 && { echo "read $file of $pid" >&2; exit 1; }
    done
    ls /proc/$pid/fd >/dev/null 2>&1 && { echo "listed fd of $pid" >&2; exit 1; }
    prlimit --pid $pid --nofile=5 2>/dev/null && { echo "limits of $pid" >&2; exit 1; }
    test "$(stat -c %u /proc/$pid/environ)" = 0 || { echo "$pid is dumpable" >&2; exit 1; }
    if command -v strace >/dev/null; then timeout 5 strace -p $pid 2>&1 | grep -q 'not permitted' || { echo "traced $pid" >&2; exit 1; }; fi
    if command -v gdb >/dev/null; then timeout 20 gdb -batch -p $pid 2>&1 | grep -q 'not permitted' || { echo "gdb of $pid" >&2; exit 1; }; fi
done
S
"$PILOT" build "expect built" 'node . ./look' "inside true" teardown "expect gone" || fell "looked inside"
