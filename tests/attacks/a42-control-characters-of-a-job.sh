#!/bin/bash
# A42 control characters in a job's words and variables
# where: inside
. "$ATTACKS/lib.sh"
# Passed on verbatim, as they must be; that no line of the node's log holds one is checked for all.
said=$(printf '%s' $'a\n\033[31mb')
[ "$said" = $'a\n\033[31mb' ] || fell "changed"
ssh "$(hostname)" printf %s 'a' >/dev/null 2>&1 || true
