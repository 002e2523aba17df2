#!/bin/bash
# A42 control characters in what reaches a log
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused: 
. "$ATTACKS/lib.sh"
# What a user can have named in a line: his home and shares in a failed build, links of his.
cp /etc/passwd passwd-kept; trap 'cp passwd-kept /etc/passwd' EXIT
home=$(printf '/opt/home/\033[31mred\ttab\001')
awk -F: -v OFS=: -v home="$home" '$1 == "localname" { $6 = home } 1' passwd-kept >/etc/passwd
as_user "$PILOT" build "expect failed OpenHome" || fell "it should fail"
cp passwd-kept /etc/passwd
as_user "$PILOT" "via exec -a \$'evil\\n<0>root: all is well\\033[2J' '$NM'" build "expect built" teardown "expect gone" || fell "a name of its own"
as_user "$PILOT" "via export A=\$'x\\nroot ALL'" build "expect built" teardown "expect gone" || fell "a variable"
