#!/bin/bash
# A50 a file that the user's group may not read, but others may
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
friends=$(awk -F: '$1 == "friends" { print $3 }' /etc/group)
echo secret >"$SHARE/0604"; chown "root:$friends" "$SHARE/0604"; chmod 0604 "$SHARE/0604"
echo secret >/opt/home/user/0604; chown "root:$friends" /opt/home/user/0604; chmod 0604 /opt/home/user/0604
setpriv --reuid="$USER_UID" --regid="$USER_UID" --groups="$friends" "$PILOT" build "expect built" \
    "inside id -G | grep -qw $friends" "inside cat /opt/share/0604 ~/0604 2>/dev/null | grep . && exit 1; true" \
    teardown "expect gone" || fell "without his group he may read it"
rm -f "$SHARE/0604" /opt/home/user/0604
