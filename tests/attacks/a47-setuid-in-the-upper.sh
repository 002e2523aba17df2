#!/bin/bash
# A47 setuid files and capabilities made inside, run by the node's users
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
cat >outside <<'S'
# The upper is a mount of the sandbox's namespace: no path of the node leads there but /proc/PID/root.
test -e /usr/evil-gp && exit 1
ls /proc/$INIT/root/usr/evil-gp 2>/dev/null && exit 2
find / -xdev -name evil-gp 2>/dev/null | grep . && exit 3
exit 0
S
chmod 755 outside
as_user "$PILOT" build "expect built" \
    "inside cp /bin/bash /usr/evil-gp && chmod 4755 /usr/evil-gp && cp /bin/bash ~/evil-home && chmod 6755 ~/evil-home; setcap cap_setuid+ep /usr/evil-gp 2>/dev/null && exit 1; test \$(/usr/evil-gp -p -c 'id -u') = $USER_UID" \
    "node . ./outside" "node setpriv --help >/dev/null; true" teardown "expect gone" || fell "reached"
# In the home it is an ordinary file of the user's: whoever runs it becomes the user, as ever, not root.
[ "$(stat -c %u "$HOME/evil-home")" = "$USER_UID" ] || fell "owner"
getcap -r "$HOME" 2>/dev/null | grep . && fell "capabilities"
rm -f "$HOME/evil-home"
