#!/bin/bash
# A29 names of interfaces
# where: root
# audit: * build a-
# audit: * torn down
# audit: 4 refused to start: node policy
. "$ATTACKS/lib.sh"
# Nobody but root's policy names one; ours are made of the monitor's pid.
as_user "$PILOT" "build driver=veth" "expect built" "node grep -q gridpilot\$(printf %x \$MONITOR): /proc/net/dev" \
    "inside test \"\$(ls /sys/class/net | xargs)\" = 'eth0 lo'" teardown "expect gone" || fell "veth"
# A name that is there already, also inside.
ip link add eth0 type veth peer name eth9 || fell "cannot make eth0"
as_user "$PILOT" build "expect built" "inside test \"\$(ls /sys/class/net | xargs)\" = 'eth0 lo'" teardown "expect gone" || fell "eth0 of the node"
ip link del eth0
for name in 'a/../b' 'abcdefghijklmnop' '%d' 'a b'; do
    sed -i "s|^interface = .*|interface = $name|" /etc/gridpilot/node.policy
    as_user "$PILOT" "refused interface: is not the name of an interface" || fell "$name"
done
