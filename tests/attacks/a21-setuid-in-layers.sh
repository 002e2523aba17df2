#!/bin/bash
# A21 setuid programs, devices and capabilities in what a sandbox sees of its node
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# The only layers so far are the node's own tree and what the policy shares.
cp /bin/bash "$SHARE/rootshell"; chmod 4755 "$SHARE/rootshell"
mknod -m 666 "$SHARE/disk" b 254 0
cp "$(command -v python3 || command -v perl)" "$SHARE/capable"; setcap cap_setuid+ep "$SHARE/capable" 2>/dev/null
cat >steps <<'S'
test -u /opt/share/rootshell || exit 1
test "$(/opt/share/rootshell -p -c 'id -u')" != 0 || exit 2
head -c 1 /opt/share/disk >/dev/null 2>&1 && exit 3
/opt/share/capable -c 'import os; os.setuid(0)' 2>/dev/null && exit 4
for p in $(find /usr/bin /bin /usr/sbin /usr/lib -xdev -perm -4000 2>/dev/null | head -20); do test -u $p; done
test "$(su -c 'id -u' root </dev/null 2>/dev/null)" != 0 || exit 5
cp /bin/bash /usr/own; chmod 4755 /usr/own; test "$(/usr/own -p -c 'id -u')" != 0 || exit 6
exit 0
S
as_user "$PILOT" build "expect built" "inside $(cat steps)" teardown "expect gone" || fell "something of it works"
rm -f "$SHARE/rootshell" "$SHARE/disk" "$SHARE/capable"
