#!/bin/bash
# A2 programs of one's own in front of PATH and in the working directory
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
for name in ip mount umount ssh-keygen sh bash tc nft modprobe iptables node-agent; do
    printf '#!/bin/sh\n/usr/bin/touch %s/ran-%s\n' "$PWD" $name >$name; chmod 755 $name
done
"$PILOT" "via cd '$PWD'; export PATH=.:'$PWD':\$PATH IFS=/" build "expect built" teardown "expect gone" || fell "no pilot"
ls ran-* 2>/dev/null && fell "executed"
exit 0
