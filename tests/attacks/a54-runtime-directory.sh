#!/bin/bash
# A54 files and directories that a program of root's might use, put there before as links
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# It has none: nothing is made on the node but ~/.ssh, as the user. What might be guessed:
for name in gridpilot gridpilot.lock gridpilot.sock node-manager node-manager.pid "gridpilot-$USER_UID"; do
    ln -s "$SECRETS/made" "/tmp/$name.$$" 2>/dev/null; ln -s "$SECRETS/made" "/dev/shm/$name" 2>/dev/null
done
"$PILOT" build "expect built" "inside true" teardown "expect gone" || fell "no pilot"
rm -f /tmp/*."$$" /dev/shm/gridpilot* /dev/shm/node-manager*
for name in gridpilot gridpilot.lock gridpilot.sock node-manager node-manager.pid "gridpilot-$USER_UID"; do
    for directory in /tmp /run /run/lock /var/run /dev/shm; do [ -e "$directory/$name" ] && fell "$directory/$name was made"; done
done
exit 0
