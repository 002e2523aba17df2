#!/bin/bash
# A57 a home on a server that takes root for nobody
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
need strace
# No NFS server is run here. What one would see is the ids of each call: whatever names the home or
# its .ssh must be done by somebody whose effective uid is the user's.
chmod 700 /opt/home/user; trap 'chmod 755 /opt/home/user' EXIT
strace -f -o trace -e trace=%file,setresuid -u localname "$PILOT" build "expect built" teardown "expect gone" 2>/dev/null || fell "no pilot"
[ "$(stat -c '%u %a' /opt/home/user/.ssh)" = "$USER_UID 700" ] || fell "~/.ssh is $(stat -c '%u %a' /opt/home/user/.ssh)"
test -z "$(find /opt/home/user -uid 0)" || fell "root's files in the home"
# (A path that begins at a descriptor and is not .ssh is one of the sandbox's own tree.)
said=$(awk -v user="$USER_UID" '
    /setresuid\(/ && !/= -1/ { split($0, ids, /[(,] */); euid[$1] = ids[3] }
    /AT_FDCWD, "\/opt\/home\/user|"[^"]*\.ssh"/ {
        if (euid[$1] != user) { print; wrong = 1 }
        if (/mkdirat\(.*\.ssh"/) made = 1
    }
    END { if (!made) print "nobody makes .ssh"; exit wrong || !made }' trace) || fell "not as the user: $said"
impossible "no NFS server was tried; in a trace the home was named and ~/.ssh made with the user's ids alone"
