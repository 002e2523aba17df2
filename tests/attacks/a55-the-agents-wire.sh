#!/bin/bash
# A55 lengths, paths and newlines on the agent's wire
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
"$PILOT" frames build "expect built" teardown "expect gone" || fell "a decoder took it"
