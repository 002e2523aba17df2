#!/bin/bash
# A41 the node manager killed while it builds, under limits as in A4; then a normal start
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: 
# loops: 40 1000
. "$ATTACKS/lib.sh"
limits=("-S -n 64" "-S -f 0" "-S -v 200000" "-c unlimited" "-S -u 64")
for n in $(seq "$LOOPS"); do
    delay=$(printf '0.%04d' $((n * 7 % 150)))
    become_user "$PILOT" "via ulimit ${limits[$((n % 5))]}" start "node echo \$MONITOR >monitor" build "node sleep $delay; echo now >>go" \
        "node while ! grep -q killed go; do sleep 0.002; done" 2>/dev/null &
    for _ in $(seq 2000); do [ -s go ] && break; sleep 0.002; done
    kill -KILL "$(cat monitor)" 2>/dev/null; echo killed >>go; wait; rm -f go monitor
done
"$NM" sweep >/dev/null || fell "the sweep"
as_user "$PILOT" build "expect built" "inside true" teardown "expect gone" || fell "it does not start afterwards"
