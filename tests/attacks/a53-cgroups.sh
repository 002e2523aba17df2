#!/bin/bash
# A53 release_agent, directories below /sys/fs/cgroup
# where: inside
. "$ATTACKS/lib.sh"
must_fail mkdir /sys/fs/cgroup/x
for file in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name notify_on_release 2>/dev/null | head); do
    { echo /tmp/evil >"$file"; } 2>/dev/null && fell "wrote $file"
done
must_fail mount -t cgroup -o memory none /mnt
must_fail mount -t cgroup2 none /mnt
# Its own place looks like the top of the tree, and says nothing of the node's.
grep -vE ':/$' /proc/self/cgroup | grep -v ':/\.\.' | grep -E 'slurm|sge|pbs' && fell "places of the batch system"
exit 0
