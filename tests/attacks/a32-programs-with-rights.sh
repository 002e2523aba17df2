#!/bin/bash
# A32 su, sudo, ping, mount and every other setuid program of the node
# where: inside
. "$ATTACKS/lib.sh"
for program in $(find / -xdev -perm /6000 -type f 2>/dev/null); do
    case $program in */su) must_fail timeout 5 "$program" -c true root </dev/null ;; *) timeout 1 "$program" --version </dev/null >/dev/null 2>&1 & ;; esac
done
wait
cp /bin/bash /usr/rootshell; chmod 4755 /usr/rootshell
[ "$(/usr/rootshell -p -c 'id -u')" = "$(id -u)" ] || fell "setuid has an effect"
perl -e '$> = 0; $< = 0; exit($> == 0 || $< == 0)' || fell "another uid"
must_fail setpriv --reuid=0 true
must_fail setpriv --regid=0 --clear-groups true
[ "$(grep NoNewPrivs /proc/self/status | awk '{print $2}')" = 1 ] || fell "no_new_privs is not set"
exit 0
