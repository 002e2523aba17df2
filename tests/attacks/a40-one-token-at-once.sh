#!/bin/bash
# A40 many node managers with one grant at once
# where: node
# audit: 1 build a-
# audit: * refused: 
# audit: * torn down
# loops: 12 100
. "$ATTACKS/lib.sh"
# A grant names the nonce of one start: one pilot may use it, however many try at the same time.
"$PILOT" build "expect built" "node od -An -tx1 -N1 /dev/null; true" \
    "node for n in \$(seq $LOOPS); do '$PILOT' 'build nonce=7' 'expect failed CheckGrant another start' & done; wait \$(jobs -p)" \
    "inside true" teardown "expect gone" || fell "a second one"
