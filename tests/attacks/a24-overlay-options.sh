#!/bin/bash
# A24 separators of mount options in paths
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: cannot
. "$ATTACKS/lib.sh"
# Options are given one key at a time and all values are ours; what is named by others are the
# home, the shares and the node's mount points.
cp /etc/passwd passwd-kept; trap 'cp passwd-kept /etc/passwd; umount /srv/gp*  2>/dev/null; rmdir /srv/gp* 2>/dev/null' EXIT
for name in 'a,upperdir=/etc' 'a:b' 'a\b' 'a,lowerdir=/opt/secrets,x' "$(printf 'a\040b')" "$(printf '%.0sx' $(seq 200))"; do
    home="/opt/home/$name"; mkdir -p "$home"; chown "$USER_UID" "$home"
    awk -F: -v OFS=: -v home="${home//\\/\\\\}" '$1 == "localname" { $6 = home } 1' passwd-kept >/etc/passwd
    as_user "$PILOT" build "expect built" "inside touch ~/here && test ! -e /opt/secrets/secret" teardown "expect gone" 2>said ||
        grep -qE 'OpenHome|FindAccount' said || fell "$name: $(cat said)"
    grep -q "Built" said || [ -e "$home/here" ] || grep -qE 'OpenHome|FindAccount' said || fell "$name: not his home"
    rm -rf "$home"
    mkdir -p "/srv/gp$name" && mount -t tmpfs none "/srv/gp$name" || fell "cannot mount"
    cp passwd-kept /etc/passwd
    as_user "$PILOT" build "expect built" "inside cat /opt/secrets/secret 2>/dev/null && exit 1; true" teardown "expect gone" || fell "mount point $name"
    umount "/srv/gp$name"; rmdir "/srv/gp$name"
done
exit 0
