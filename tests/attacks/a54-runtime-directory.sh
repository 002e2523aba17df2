#!/bin/bash
# A54 files and directories that a program of root's might use, put there before as links
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# It has none: nothing is made on the node but ~/.ssh, as the user. Where others make theirs
# everybody may write here, and finds links to where only root may.
places="/tmp /var/tmp /run /dev/shm"
for place in $places; do mount -t tmpfs -o mode=1777 none $place || fell "cannot mount on $place"; done
trap 'umount $places' EXIT
for place in $places; do
    for name in gridpilot gridpilot.lock gridpilot.sock node-manager node-manager.pid "gridpilot-$USER_UID"; do
        as_user ln -s "$SECRETS/made" "$place/$name"
    done
done
things() { find $places ! -type d -printf '%p %y %l\n' | sort; find $places -mindepth 1 -type d; }
things >"$HOME/before"; declare -f things >"$HOME/things"; [ "$(grep -c ' l ' "$HOME/before")" = 24 ] || fell "no links"
export places
as_user "$PILOT" build "expect built" "inside true" "node . '$HOME/things'; things | diff '$HOME/before' -" teardown "expect gone" || fell "no pilot, or it made something"
things | diff "$HOME/before" - || fell "it made something, or took it away"
[ ! -e "$SECRETS/made" ] || fell "it was led away"
