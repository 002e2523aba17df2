#!/bin/bash
# A12 from a login shell
# where: node
# audit: 4 refused to start: not started by
. "$ATTACKS/lib.sh"
refused "$HAND" "$NM"
refused "$HAND" setsid -w "$NM"
# With descriptors that look right but are no tether.
refused "$HAND" bash -c "exec '$NM' 3</dev/null 4</dev/null"
refused "$HAND" bash -c "true | '$NM' 3<&0 4<&0"
