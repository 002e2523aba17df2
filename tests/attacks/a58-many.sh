#!/bin/bash
# A58 more sandboxes, namespaces, inodes than there may be
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: 
# loops: 40 300
. "$ATTACKS/lib.sh"
# No bridge of ours has ports, and neighbour entries are permanent; what is finite are namespaces.
# Below 400, for the machine's neighbour table is one for everybody.
max=$(cat /proc/sys/user/max_net_namespaces)
echo "node manager limits: $max namespaces" >/dev/null
pids=()
for n in $(seq "$LOOPS"); do
    become_user "$PILOT" "build address=10.71.$((129 + n / 250)).$((n % 250 + 1)) pids=50" "expect built" "node touch up-$n; while [ ! -e done ]; do sleep 0.2; done" teardown "expect gone" &
    pids+=($!)
done
for _ in $(seq 1500); do [ "$(ls up-* 2>/dev/null | wc -l)" -ge "$LOOPS" ] && break; sleep 0.1; done
up=$(ls up-* 2>/dev/null | wc -l)
ping -c1 -W2 10.71.0.11 >/dev/null 2>&1 || fell "the node lost its network"
touch done
for pid in "${pids[@]}"; do wait "$pid" || fell "one did not end well"; done
[ "$up" = "$LOOPS" ] || fell "$up of $LOOPS stood"
# Its own limits: bytes and inodes of what it may write, processes.
as_user "$PILOT" "build pids=40" "expect built" \
    "inside head -c 200M /dev/zero >/usr/full 2>/dev/null && exit 1; rm -f /usr/full; i=0; while true >/var/tmp/f\$i; do i=\$((i+1)); test \$i -gt 30000 && exit 1; done 2>/dev/null; rm -rf /var/tmp/f*; true" \
    "inside for i in \$(seq 100); do sleep 3 & done 2>&1 | grep -qi fork" teardown "expect gone" || fell "a limit does not hold"
