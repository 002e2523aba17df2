#!/bin/bash
# A36 a namespace that a process of the node holds open after its sandbox
# where: root
# audit: 2 build a-
# audit: 2 torn down
. "$ATTACKS/lib.sh"
# Taken out by a process of the user's own, here straight from /proc: the worst that SCM_RIGHTS can do.
for driver in veth macvlan; do
    become_user "$PILOT" "build driver=$driver" "expect built" "inside (setsid sh -c 'trap \"\" TERM HUP; sleep 1000' >/dev/null 2>&1 &)" \
        'node echo $INIT >init; while [ ! -e held ]; do sleep 0.01; done' teardown "expect gone" &
    tool=$!
    for _ in $(seq 500); do [ -s init ] && break; sleep 0.02; done
    exec 9</proc/$(cat init)/ns/net; touch held; wait $tool || fell "$driver: it did not end"
    # Who holds it can no longer speak with the address.
    nsenter --net=/proc/self/fd/9 ip -4 -o addr show eth0 2>/dev/null | grep 10.71 && fell "$driver: it still has its address"
    exec 9<&-; rm -f init held
done
sleep 0.5
