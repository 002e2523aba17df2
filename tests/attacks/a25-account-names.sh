#!/bin/bash
# A25 strange names and homes, and an account that is not there
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: cannot find the user's account
# audit: * refused: cannot open the user
. "$ATTACKS/lib.sh"
cp /etc/passwd passwd-kept; trap 'cp passwd-kept /etc/passwd' EXIT
entry() { grep -v '^localname:' passwd-kept >/etc/passwd; printf '%s\n' "$@" >>/etc/passwd; }
# No entry at all.
entry
as_user "$PILOT" build "expect failed FindAccount no account" || fell "an account that is not there"
for name in 'a/b' '../../etc' 'a b' 'root' "$(printf 'a\tb')" "$(printf 'a\033[31mb')"; do
    entry "$name:x:$USER_UID:$USER_UID::/opt/home/user:/bin/bash"
    # Its name is never used: inside it is the grid's, on the node the number.
    as_user "$PILOT" build "expect built" "inside test \$(id -un) = grid && test \$(id -u) = $USER_UID" teardown "expect gone" || fell "$name"
done
entry "-rf:x:$USER_UID:$USER_UID::/opt/home/user:/bin/bash"
as_user "$PILOT" build "expect failed FindAccount" || fell "a name like an option"
for home in relative '' '/opt/home/../secrets' '/opt/home/user/../other'; do
    entry "localname:x:$USER_UID:$USER_UID::$home:/bin/bash"
    as_user "$PILOT" build "expect built" teardown 2>said && fell "home $home"
    grep -qE 'FindAccount|OpenHome' said || fell "home $home: $(cat said)"
done
# A home with a newline cannot stand in passwd; a GECOS field and a shell can hold anything.
entry "localname:x:$USER_UID:$USER_UID:evil,\"x\$(id):/opt/home/user:/bin/sh; id"
as_user "$PILOT" build "expect built" "inside getent passwd grid | grep -c . | grep -qx 1" teardown "expect gone" || fell "a shell with a semicolon"
