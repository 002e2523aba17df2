#!/bin/bash
# A6 a thousand descriptors, among them a file that only root reads and a directory
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# The file is opened by root and passed on, as a careless parent would.
exec 9<"$SECRETS/secret" 8<"$SECRETS"
as_user "$PILOT" "via exec 9<&9 8<&8; for n in \$(seq 100 1000); do eval \"exec \$n</dev/null\" 2>/dev/null; done" \
    build "expect built" \
    "inside for fd in /proc/self/fd/*; do readlink \$fd; done | grep -vE '^(pipe:|/dev/null|/proc/)' && exit 1; true" \
    "inside ls -l /proc/1/fd 2>&1 | grep -q denied" \
    "node ls -l /proc/\$MONITOR/fd 2>&1 | grep -q denied" teardown "expect gone" || fell "a descriptor came through"
exec 9<&- 8<&-
