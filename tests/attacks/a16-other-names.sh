#!/bin/bash
# A16 hard link, copy, symbolic link, and the file by its descriptor
# where: root
# audit: 2 refused to start: setuid is ineffective
# audit: 3 refused to start: not started by
# audit: 2 must be root's and not writable
. "$ATTACKS/lib.sh"
as_user ln -s "$NM" ./su
refused "$HAND" as_user ./su
refused "$HAND" as_user bash -c "exec 7<'$NM'; exec /proc/self/fd/7"
refused "$HAND" as_user bash -c "exec -a /bin/mount '$NM'"
as_user cp "$NM" copy
refused "setuid is ineffective" as_user ./copy
as_user chmod 4755 copy
refused "setuid is ineffective" as_user ./copy
# Hard links to files of root's can be had where the kernel does not protect them.
ln "$NM" linked 2>/dev/null || { cp "$NM" linked; chmod 4755 linked; }
[ -u linked ] && refused "must be root's" as_user ./linked
# One that is as good as installed, but where the user may put another in its place.
mkdir mine; cp "$NM" mine/node-manager; chown -R root mine; chmod 4755 mine/node-manager; chmod 777 mine
refused "must be root's" as_user mine/node-manager
