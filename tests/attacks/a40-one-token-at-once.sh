#!/bin/bash
# A40 many node managers with one grant at once
# where: node
# audit: 1 build a-
# audit: LOOPS it was made for another start
# audit: * torn down
# loops: 12 100
. "$ATTACKS/lib.sh"
# A grant names the nonce of one start, and only that start takes it: here all others have it word
# for word, signed by the site, while the one stands.
"$PILOT" "build pids=31" "expect built" \
    "node for n in \$(seq $LOOPS); do '$PILOT' \"build pids=31 nonce=\$NONCE\" 'expect failed CheckGrant another start' & jobs=\"\$jobs \$!\"; done; for job in \$jobs; do wait \$job || exit 1; done" \
    "inside true" teardown "expect gone" || fell "a second one"
