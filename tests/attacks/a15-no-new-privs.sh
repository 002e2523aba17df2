#!/bin/bash
# A15 under no_new_privs
# where: node
# audit: 2 refused to start: setuid is ineffective
. "$ATTACKS/lib.sh"
refused "setuid is ineffective" setpriv --no-new-privs "$NM"
refused "setuid is ineffective" setpriv --no-new-privs "$NM" sweep
