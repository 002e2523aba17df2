#!/bin/bash
# A18 a home that is a symbolic link to where its user may not go
# where: root
# audit: 5 refused: cannot open the user
# audit: 5 build a-
# audit: 5 torn down
. "$ATTACKS/lib.sh"
mv /opt/home/user /opt/home/kept
trap 'rm -f /opt/home/user; mv /opt/home/kept /opt/home/user' EXIT
for target in /etc /proc/1/root "$SECRETS" /opt/home/other /proc/self/cwd; do
    ln -s "$target" /opt/home/user
    as_user "$PILOT" build "expect failed OpenHome" || fell "home -> $target"
    rm /opt/home/user
done
ls -ld /etc/.ssh "$SECRETS"/.ssh /opt/home/other/.ssh 2>/dev/null && fell "made on the node"
exit 0
