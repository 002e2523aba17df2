#!/bin/bash
# A43 words that begin with a dash, are no text, or very long
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
"$PILOT" build "expect built" "verbatim" "inside true" teardown "expect gone" || fell "not verbatim"
