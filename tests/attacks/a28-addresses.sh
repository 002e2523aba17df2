#!/bin/bash
# A28 addresses that are not the pilot's
# where: node
# audit: 5 refused: cannot keep to the node policy
# audit: 8 refused: cannot accept the grant
# audit: 1 refused: cannot create the network interface
# audit: 2 build a-
# audit: * torn down
. "$ATTACKS/lib.sh"
# What a subverted CRM might sign: the node's own policy and the record's own rules hold all the same.
for address in 10.71.1.1 10.72.128.7 192.168.1.1 8.8.8.8 10.71.0.11; do
    "$PILOT" "build address=$address" "expect failed CheckPolicy in none of the node's ranges" || fell "$address"
done
for words in "address=127.0.0.1" "address=10.71.255.255" "address=10.71.0.0" "address=0.0.0.0" "prefix=0" "prefix=32" \
    "gateway=10.71.128.7" "address=224.0.0.1"; do
    "$PILOT" "build $words" "expect failed CheckGrant host's" || fell "$words"
done
# Another sandbox's, while that one stands.
"$PILOT" build "expect built" "node '$PILOT' build 'expect failed CreateLink'" "inside true" teardown "expect gone" || fell "taken"
