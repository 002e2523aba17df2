#!/bin/bash
# A56 private keys that others may read
# where: inside
. "$ATTACKS/lib.sh"
find / -path /proc -prune -o -path /sys -prune -o -name '*ed25519*' -size -16k -type f -perm /077 -exec grep -l 'PRIVATE KEY' {} + 2>/dev/null | grep . && fell "a key that others may read"
[ "$(stat -c '%a %u' ~/.ssh)" = "700 $(id -u)" ] || fell "~/.ssh is $(stat -c '%a %u' ~/.ssh)"
for key in ~/.ssh/id_ed25519 /etc/gridpilot/ssh_host_ed25519_key; do [ "$(stat -c %a $key)" = 600 ] || fell "$key"; done
grep -rlE 'PRIVATE KEY' /run /var/log /tmp /etc/gridpilot 2>/dev/null | grep -v ssh_host_ed25519_key && fell "a key in a log"
exit 0
