#!/bin/bash
# A32 su, sudo, ping, mount and every other setuid program of the node
# where: inside
. "$ATTACKS/lib.sh"
raised /bin/true && fell "that cannot be told here"
programs=$(raisable)
[ -n "$programs" ] || impossible "the node has no setuid program"
for program in $programs; do raised "$program" && fell "$program has its rights"; done
perl -e '$> = 0; $< = 0; exit($> == 0 || $< == 0)' || fell "another uid"
must_fail setpriv --reuid=0 true
must_fail setpriv --regid=0 --clear-groups true
[ "$(grep NoNewPrivs /proc/self/status | awk '{print $2}')" = 1 ] || fell "no_new_privs is not set"
exit 0
