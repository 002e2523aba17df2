#!/bin/bash
# A5 without descriptors 0 to 2
# where: node
# audit: 1 refused to start: not started by
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
bash -c "exec '$NM' <&- >&- 2>&-"; [ $? = 1 ] || fell "not refused"
"$PILOT" "via exec 0<&- 1>&- 2>&-" build "expect built" \
    "inside ls -l /proc/self/fd | grep -vE ' [0-9]+ -> |total' ; readlink /proc/self/fd/0 | grep -qx /dev/null" \
    "node for f in /proc/\$AGENT/fd/*; do :; done; true" teardown "expect gone" || fell "no pilot"
