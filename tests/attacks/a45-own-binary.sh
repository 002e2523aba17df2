#!/bin/bash
# A45 the node manager's own file through /proc
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
before=$(cksum <"$NM")
"$PILOT" build "expect built" \
    "inside { echo x >/proc/1/exe; } 2>/dev/null && exit 1; readlink /proc/1/exe && exit 2; cat /proc/1/exe 2>/dev/null && exit 3; true" \
    "inside { echo x >>$NM; } 2>/dev/null && exit 4; test -e $NM && rm -f $NM 2>/dev/null && exit 5; true" \
    "node readlink /proc/\$MONITOR/exe && exit 1; { echo x >/proc/\$MONITOR/exe; } 2>/dev/null && exit 2; true" \
    teardown "expect gone" || fell "it can be written"
[ "$before" = "$(cksum <"$NM")" ] || fell "it was changed"
