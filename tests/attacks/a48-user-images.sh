#!/bin/bash
# A48 images that a user can change while the kernel reads them
# where: root
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
# The setuid program opens no image: of filesystems it makes tmpfs, overlay, proc and sysfs only,
# with the node's own tree below.
as_user "$PILOT" build "expect built" \
    "inside awk '{ for (n = 1; n < NF; n++) if (\$n == \"-\") print \$(n + 1) }' /proc/self/mountinfo | sort -u | grep -vxE 'tmpfs|overlay|proc|sysfs|devpts|ext4|xfs|btrfs|nfs4?' && exit 1; true" \
    "inside ls -l /proc/self/mountinfo >/dev/null; grep -E 'loop|fuse|erofs|squashfs' /proc/self/mountinfo && exit 1; true" \
    teardown "expect gone" || fell "another kind of filesystem"
exit 0
