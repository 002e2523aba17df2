#!/bin/bash
# A44 descriptors inside, and working directories that lead through them
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
"$PILOT" "via exec 9</ 8</etc" build "expect built" \
    "inside for n in 3 4 5 6 7 8 9 10 11 12 100; do test -e /proc/self/fd/\$n && readlink /proc/self/fd/\$n | grep -vE '^(pipe:|/dev/null|/proc)' && exit 1; cd /proc/self/fd/\$n 2>/dev/null && exit 2; cd /proc/1/fd/\$n 2>/dev/null && exit 3; cd /proc/1/root 2>/dev/null && exit 4; cd /proc/1/cwd 2>/dev/null && exit 5; done; true" \
    "inside ls /proc/1/fd 2>/dev/null && exit 1; true" teardown "expect gone" || fell "a way out"
