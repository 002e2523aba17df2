#!/bin/bash
# A24 separators of mount options in paths
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: cannot
. "$ATTACKS/lib.sh"
# Options are given one key at a time and all values are ours; what is named by others are the
# home, the shares and the node's mount points.
# What is made here for the latter is on a filesystem of its own: nothing of it stays on the machine.
mount -t tmpfs -o mode=755 none /mnt || fell "cannot mount"
cp /etc/passwd passwd-kept; trap 'cp passwd-kept /etc/passwd; umount -R /mnt' EXIT
for name in 'a,upperdir=/etc' 'a:b' 'a\b' 'a,lowerdir=/opt/secrets,x' "$(printf 'a\040b')" "$(printf '%.0sx' $(seq 200))"; do
    home="/opt/home/$name"; mkdir -p "$home"; chown "$USER_UID" "$home"
    awk -F: -v OFS=: -v home="${home//\\/\\\\}" '$1 == "localname" { $6 = home } 1' passwd-kept >/etc/passwd
    as_user "$PILOT" build "expect built" "inside touch ~/here && test ! -e /opt/secrets/secret" teardown "expect gone" 2>said ||
        grep -qE 'OpenHome|FindAccount' said || fell "$name: $(cat said)"
    grep -q "Built" said || [ -e "$home/here" ] || grep -qE 'OpenHome|FindAccount' said || fell "$name: not his home"
    rm -rf "$home"
    point="/mnt/gp$name"; mkdir -p "$point" && mount -t tmpfs none "$point" || fell "cannot mount"
    touch "$point/there"
    cp passwd-kept /etc/passwd
    as_user "$PILOT" build "expect built" "inside test -e '$point/there' || exit 1; ! cat /opt/secrets/secret 2>/dev/null" teardown "expect gone" || fell "mount point $name"
    umount "$point" || fell "cannot take away $point"
done
exit 0
