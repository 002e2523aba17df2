#!/bin/bash
# A22 mount points of the sandbox that are symbolic links on the node
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: cannot
. "$ATTACKS/lib.sh"
# Only root can change his node's tree; shares are the user's, and he may turn them into links.
rm -rf "$SHARE"/*; chown "$USER_UID" "$SHARE"
# Directories that everybody may read, below one that nobody but its owner may enter: who goes there
# with root's rights shows what is in them.
closed="$SECRETS/open /opt/home/other/open"
mv "$SHARE" /opt/share-kept
trap 'rm -rf $closed; rm -f /opt/share; mv /opt/share-kept /opt/share' EXIT
for target in $closed; do mkdir "$target"; echo open >"$target/secret"; chmod 755 "$target"; chmod 644 "$target/secret"; done
before=$(cat /proc/sys/kernel/core_pattern)
for target in $closed "$SECRETS" /proc/sys/kernel /etc; do
    ln -s $target "$SHARE"
    as_user "$PILOT" build "expect built" "inside cat /opt/share/secret 2>/dev/null && exit 1; echo x 2>/dev/null >/opt/share/core_pattern; true" \
        teardown "expect gone" 2>said || grep -qE 'OpenShare|MountShare' said || fell "$target: $(cat said)"
    rm "$SHARE"
done
[ "$before" = "$(cat /proc/sys/kernel/core_pattern)" ] || fell "core_pattern was changed"
