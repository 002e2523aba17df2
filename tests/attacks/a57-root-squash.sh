#!/bin/bash
# A57 a home on a server that takes root for nobody
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# An NFS server cannot be run in every kernel. What it would see is the ids of the call: a home that
# only its user may enter, asked by a root that has no rights to files, says the same.
if ! grep -q nfsd /proc/filesystems; then nfs=no; else nfs=yes; fi
chmod 700 /opt/home/user; rm -rf /opt/home/user/.ssh
need strace
strace -f -o trace -e trace=mkdirat,mkdir,openat2,newfstatat,setresuid -u localname "$PILOT" build "expect built" teardown "expect gone" 2>/dev/null
[ "$(stat -c '%u %a' /opt/home/user/.ssh)" = "$USER_UID 700" ] || fell "~/.ssh is $(stat -c '%u %a' /opt/home/user/.ssh)"
test -z "$(find /opt/home/user -uid 0)" || fell "root's files in the home"
chmod 755 /opt/home/user
[ $nfs = yes ] || impossible "this kernel has no NFS server; that all is done with the user's ids was seen (the rest of the entry)"
