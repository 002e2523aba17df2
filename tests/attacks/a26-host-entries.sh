#!/bin/bash
# A26 host entries and keys with newlines, options, lengths
# where: inside
. "$ATTACKS/lib.sh"
# A key has no text and a host no free one: both travel as checked fields, and the files are made
# at this end. So every line must be of the one form that is made here.
members=$(grep -c . /etc/gridpilot/nodes)
grep -vE '^127\.0\.0\.1 localhost$|^[0-9.]{7,15} [a-z][a-z0-9]{0,11}-[0-9]+$' /etc/hosts && fell "a strange host entry"
grep -vE '^[a-z0-9.,-]+ ssh-ed25519 [A-Za-z0-9+/=]{68}$' ~/.ssh/known_hosts && fell "a strange known host"
grep -vE '^from="[0-9.,]+"[a-z,-]* ssh-ed25519 [A-Za-z0-9+/=]{68}$' ~/.ssh/authorized_keys && fell "a strange authorized key"
[ "$(grep -c . ~/.ssh/authorized_keys)" -le $((members)) ] || fell "more keys than members"
exit 0
