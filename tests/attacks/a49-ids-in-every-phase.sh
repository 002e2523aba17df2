#!/bin/bash
# A49 ids, groups, capabilities, no_new_privs and seccomp in every phase
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
cat >look <<'S'
value() { awk -v key="$2:" '$1 == key { $1 = ""; sub(/^[ \t]+/, ""); gsub(/\t/, " "); print }' /proc/$1/status; }
is() { [ "$(value $1 $2 | xargs)" = "$3" ] || { echo "$4: $2 is $(value $1 $2), not $3" >&2; exit 1; }; }
is $MONITOR Uid "0 0 0 0" monitor; is $MONITOR Gid "0 0 0 0" monitor; is $MONITOR Groups "" monitor
is $MONITOR CapEff 0000000000000020 monitor; is $MONITOR CapInh 0000000000000000 monitor; is $MONITOR CapAmb 0000000000000000 monitor
is $AGENT Uid "$AGENT_UID $AGENT_UID $AGENT_UID $AGENT_UID" agent; is $AGENT Groups "" agent
u=$USER_UID
for cap in CapInh CapPrm CapEff CapBnd CapAmb; do is $AGENT $cap 0000000000000000 agent; done
is $AGENT NoNewPrivs 1 agent
if [ "$INIT" != 0 ]; then
    is $INIT Uid "$u $u $u $u" init; is $INIT Gid "$u $u $u $u" init
    for cap in CapInh CapPrm CapEff CapBnd CapAmb; do is $INIT $cap 0000000000000000 init; done
    is $INIT NoNewPrivs 1 init; is $INIT Seccomp 2 init
fi
S
"$PILOT" start "node . ./look" build "expect built" "node . ./look" \
    "inside test \"\$(awk '/^Cap/ {print \$2}' /proc/self/status | sort -u)\" = 0000000000000000 && test \"\$(awk '/^(NoNewPrivs|Seccomp):/ {print \$2}' /proc/self/status | xargs)\" = '1 2'" \
    "inside id -G | tr ' ' '\n' | grep -qx 0 && exit 1; id -G | grep -q '^$USER_UID'" teardown "expect gone" "node true" || fell "something is left of root"
