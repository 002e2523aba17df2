#!/bin/bash
# A8 umask 0, then the modes of every file that is made
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
touch before; sleep 0.01
"$PILOT" "via umask 0" build "expect built" \
    "inside test \$(umask) = 0022" \
    "inside find /etc /usr /opt /srv /mnt /home /run -xdev -newer $SHARE ! -type l -perm /022 ! -perm -1000 2>/dev/null | grep . && exit 1; true" \
    "inside find /etc/gridpilot ~/.ssh /run -perm /022 | grep . && exit 1; true" \
    teardown "expect gone" || fell "something can be written by others"
test -z "$(find "$HOME" -perm /022 ! -type l)" || fell "in the home: $(find "$HOME" -perm /022 ! -type l)"
