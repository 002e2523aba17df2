#!/bin/bash
# A60 owner and mode of the program, its policy and all above them
# where: root
# audit: 7 must be root's and not writable
# audit: * build a-
# audit: * torn down
. "$ATTACKS/lib.sh"
case $(findmnt -n -T "$NM" -o OPTIONS) in *nosuid*) fell "nosuid" ;; esac
[ "$(stat -c '%u %a' "$NM")" = "0 4755" ] || fell "its mode"
bad() { as_user "$PILOT" "refused must be root's" || fell "$1"; }
chmod g+w "$NM"; bad "group may write the program"; chmod 4755 "$NM"
chmod o+w "$LIB"; bad "others may write its directory"; chmod 755 "$LIB"
chmod g+w /opt; bad "group may write above it"; chmod 755 /opt
chmod o+w "$LIB/node-agent"; bad "others may write the agent"; chmod 755 "$LIB/node-agent"
policy=/etc/gridpilot/node.policy
chmod g+w $policy; bad "group may write the policy"; chmod 644 $policy
chown "$USER_UID" $policy; bad "the policy is the user's"; chown 0 $policy
chmod o+w /etc/gridpilot; bad "others may write its directory"; chmod 755 /etc/gridpilot
as_user "$PILOT" build "expect built" teardown "expect gone" || fell "it does not start as installed"
