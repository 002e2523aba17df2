#!/bin/bash
# A33 /proc/sys, sysrq, /sys, cgroup files
# where: inside
. "$ATTACKS/lib.sh"
# Opening alone says little of these files: its own content is written back.
can_write() { [ -e "$1" ] && (value=$(timeout 1 head -c 100 "$1" 2>/dev/null); exec 9>"$1" && printf %s "${value:-1}" >&9) 2>/dev/null; }
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/net/ipv4/ip_forward \
    /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/vm/drop_caches /proc/sys/kernel/modprobe /proc/sys/user/max_user_namespaces \
    /proc/kcore /proc/kmsg /dev/mem /sys/kernel/uevent_helper /sys/class/net/eth0/mtu; do
    can_write $file && fell "wrote $file"
done
find /proc/sys -type f -writable 2>/dev/null | while read -r file; do can_write "$file" && echo "$file"; done | grep . && fell "switches can be written"
find /sys -type f -writable 2>/dev/null | head -200 | while read -r file; do can_write "$file" && echo "$file"; done | grep . && fell "/sys can be written"
{ echo "0 0 1" >/proc/self/uid_map; } 2>/dev/null && fell "ids of its own"
must_fail mount -o remount,rw /sys
for file in oom_score_adj; do { echo -1000 >/proc/self/$file; } 2>/dev/null && fell "it makes itself unkillable"; done
exit 0
