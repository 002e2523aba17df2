#!/bin/bash
# A39 another sandbox's private key: by /proc, by the writable part's place on the node, by a core
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
cat >steal <<'S'
as() { setpriv --reuid="$1" --regid="$1" --clear-groups "${@:2}"; }
for uid in $OTHER_UID $AGENT_UID; do
    for path in home/grid/.ssh/key etc/gridpilot/key; do as $uid cat /proc/$INIT/root/$path 2>/dev/null && exit 1; done
    as $uid cat /proc/$INIT/mem /proc/$INIT/environ 2>/dev/null | grep -q . && exit 2
done
# The same user outside: init is not dumpable, so not even he gets in by this way.
as $USER_UID ls /proc/$INIT/root/home/grid/.ssh 2>/dev/null && exit 3
# The mount is in the sandbox's namespace only: the node has no such path (its mounts are compared by the runner).
find / -xdev -newer "$ATTACKS/lib.sh" -name 'key-of-the-test' 2>/dev/null | grep . && exit 5
ls /opt/home/user/.ssh/key 2>/dev/null && exit 6
exit 0
S
chmod 755 steal
become_user "$PILOT" build "expect built" "inside echo PRIVATE >~/.ssh/key; echo PRIVATE >~/.ssh/key-of-the-test; chmod 600 ~/.ssh/key*; ulimit -c | grep -qx 0" \
    "inside sh -c 'kill -SEGV \$\$'; ls core* ~/core* 2>/dev/null | grep . && exit 1; true" \
    'node echo $INIT >init; while [ ! -e done ]; do sleep 0.02; done' teardown "expect gone" &
tool=$!
for _ in $(seq 500); do [ -s init ] && break; sleep 0.02; done
INIT=$(cat init) bash ./steal; code=$?
touch done; wait $tool || fell "the sandbox"
[ $code = 0 ] || fell "a key was read ($code)"
