#!/bin/bash
# A21 setuid programs, devices and capabilities in what a sandbox sees of its node
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# The only layers so far are the node's own tree and what the policy shares.
trap 'rm -f "$SHARE"/{rootshell,zero,capable}' EXIT
cp /bin/bash "$SHARE/rootshell"; chmod 4755 "$SHARE/rootshell"
mknod -m 666 "$SHARE/zero" c 1 5
cp "$(command -v perl)" "$SHARE/capable"; setcap cap_setuid+ep "$SHARE/capable" || fell "cannot give a capability"
cp "$ATTACKS/lib.sh" "$HOME/"
cat >"$HOME/steps" <<'S'
raised /bin/true && exit 1
test -u /opt/share/rootshell || exit 2
test "$(/opt/share/rootshell -p -c 'id -u')" != 0 || exit 3
head -c 1 /opt/share/zero >/dev/null 2>&1 && exit 4
/opt/share/capable -e '$> = 0; exit($> != 0)' 2>/dev/null && exit 5
for p in $(raisable); do raised "$p" && exit 6; done
exit 0
S
chmod 644 "$HOME"/{lib.sh,steps}
# On the node itself all of it works, so what is seen inside is the sandbox's doing.
cat >outside <<'S'
raised /bin/true && exit 1
test "$("$SHARE/rootshell" -p -c 'id -u')" = 0 || exit 3
head -c 1 "$SHARE/zero" >/dev/null || exit 4
"$SHARE/capable" -e '$> = 0; exit($> != 0)' || exit 5
raised "$SHARE/rootshell" || exit 6
S
chmod 755 outside
as_user bash -c ". '$ATTACKS/lib.sh'; . ./outside" || fell "on the node itself it does not work ($?)"
as_user "$PILOT" build "expect built" "inside bash -c '. ~/lib.sh; . ~/steps'" teardown "expect gone" || fell "something of it works"
