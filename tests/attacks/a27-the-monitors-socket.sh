#!/bin/bash
# A27 garbage, lengths, unknown verbs, wrong order, a million records, descriptors to the monitor
# where: node
# audit: 9 build a-
# audit: 9 torn down
# audit: * refused: 
# loops: 2000 1000000
. "$ATTACKS/lib.sh"
long=$(printf '07%.0s' $(seq 5000))
for hex in ffffffff 09 00 01 0200 "$long" 04ffff; do
    "$PILOT" build "expect built" "raw $hex" "expect ended AgentBroke" "exit 0" || fell "$hex"
done
# Before anything is built: nothing to tear down.
"$PILOT" "raw ffffffff" "expect ended AgentBroke" "exit 0" || fell "garbage first"
"$PILOT" "raw-fds 05" "expect ended AgentBroke" "exit 0" || fell "descriptors"
"$PILOT" build "expect built" "build address=10.71.128.9" "expect ended AgentBroke" "exit 0" || fell "a second build"
"$PILOT" teardown "expect gone" build "expect ended AgentBroke" 2>/dev/null && fell "build after the end"
# Asking without end and without reading the answers: it hangs up, or goes on; it does not grow.
"$PILOT" build "expect built" "raw 02 $LOOPS" tether "exit 0" || fell "many records"
