#!/bin/bash
# A51 another user of the node enters, reads, signals
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
cat >other <<'S'
as_other() { setpriv --reuid="$OTHER_UID" --regid="$OTHER_UID" --clear-groups "$@"; }
for flag in -n -m -p -u -i; do as_other nsenter -t $INIT $flag true 2>/dev/null && { echo "entered $flag" >&2; exit 1; }; done
as_other ls /proc/$INIT/root 2>/dev/null && exit 2
as_other ls /proc/$INIT/cwd /proc/$INIT/fd 2>/dev/null && exit 3
as_other cat /proc/$INIT/environ /proc/$INIT/maps 2>/dev/null | grep -q . && exit 4
for signal in TERM KILL STOP; do as_other kill -$signal $INIT 2>/dev/null && exit 5; done
exit 0
S
need gcc
cat >keep.c <<'C'
#include <stdio.h>
#include <stdlib.h>
int main(int c, char **v) { return system(v[1]) != 0; }
C
become_user "$PILOT" build "expect built" "node echo \$INIT >init; while [ ! -e done ]; do sleep 0.02; done" teardown "expect gone" &
for _ in $(seq 500); do [ -s init ] && break; sleep 0.02; done
INIT=$(cat init) bash ./other; code=$?
touch done; wait $! || fell "the sandbox did not end well"
[ $code = 0 ] || fell "another user got in ($code)"
