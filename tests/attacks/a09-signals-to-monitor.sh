#!/bin/bash
# A9 signals to the monitor and to the agent
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
"$PILOT" build "expect built" \
    'node for s in STOP KILL SEGV USR1 TERM CONT HUP; do kill -$s $MONITOR 2>/dev/null && exit 1; kill -$s $AGENT 2>/dev/null && exit 1; done; true' \
    "inside true" heard teardown "expect gone" || fell "a signal was delivered"
