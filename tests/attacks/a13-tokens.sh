#!/bin/bash
# A13 grants of others, of before, with a bit changed
# where: node
# audit: LOOPS the signature is not
# audit: 1 it was made for another start
# audit: 1 it is for uid
# audit: 1 it is of site b
# audit: * torn down
# loops: 24 1120
. "$ATTACKS/lib.sh"
# 140 bytes: every bit in a full run, some all over it in a short one.
step=$((1120 / LOOPS))
for n in $(seq 0 $((LOOPS - 1))); do
    "$PILOT" "build flip=$((n * step))" "expect failed CheckGrant signature" || fell "bit $((n * step))"
done
"$PILOT" "build nonce=7" "expect failed CheckGrant another start" || fell "an old one"
"$PILOT" "build uid=$OTHER_UID" "expect failed CheckGrant is for uid" || fell "of another user"
"$PILOT" "build site=b" "expect failed CheckGrant of site b" || fell "of another site"
