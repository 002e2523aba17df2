#!/bin/bash
# A34 processes, sockets, shared memory and files of others on the node
# where: inside
. "$ATTACKS/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
[ -s "$ATTACKS/victim" ] || fell "there is no victim"
grep -q "$(ls -i /proc/self/ns/net | cut -d' ' -f1)" "$ATTACKS/victim" && fell "the same network namespace"
# The pattern is taken apart, so that it does not find itself.
ps -eo args | grep 'marker-of-the-[v]ictim' && fell "processes"
[ "$(ps -eo uid= | sort -u | wc -l)" = 1 ] || fell "other people's processes"
ss -xl 2>/dev/null | grep gridpilot-victim && fell "abstract sockets"
perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_STREAM, 0); exit(connect($s, pack("S a*", AF_UNIX, "\0gridpilot-victim")) ? 1 : 0)' || fell "connected"
perl -e 'exit(defined shmget(4711, 4096, 0666) ? 1 : 0)' || fell "SysV shared memory"
ls /dev/shm/victim /tmp/victim 2>/dev/null && fell "files"
dmesg 2>/dev/null | grep . && fell "the kernel's log"
cat /dev/kmsg 2>/dev/null | head -c1 | grep . && fell "the kernel's log"
keyctl show 2>/dev/null | grep -i victim && fell "keyrings"
cat /proc/keys 2>/dev/null | grep -i victim && fell "keyrings"
for pid in $(seq 1 200); do [ -d /proc/$pid ] && [ "$(awk '/^Uid:/ {print $2}' /proc/$pid/status 2>/dev/null)" != "$(id -u)" ] && [ -d /proc/$pid ] && fell "pid $pid"; done
exit 0
