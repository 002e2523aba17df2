#!/bin/bash
# A23 overlay attributes in the lower layer, made by the user
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
need python3
mkdir -p "$SHARE/d" "$HOME/d"
cat >set.py <<'P'
import os, sys
for path in sys.argv[1:]:
    for name, value in (("trusted.overlay.redirect", b"/opt/secrets"), ("user.overlay.redirect", b"/opt/secrets"),
                        ("trusted.overlay.opaque", b"y"), ("user.overlay.opaque", b"y"), ("trusted.overlay.metacopy", b"")):
        try:
            os.setxattr(path, name, value)
            print("set", name)
        except OSError as error:
            print("refused", name, error.errno)
P
python3 set.py "$SHARE/d" "$HOME/d" >set; grep -q "set trusted" set && fell "a user may set trusted attributes"
chmod 755 set.py; cp set.py "$SHARE/set.py"
"$PILOT" build "expect built" \
    "inside mkdir /usr/d /etc/d && python3 /opt/share/set.py /usr/d /etc/d /usr | grep 'set trusted' && exit 1; true" \
    "inside cat /usr/d/secret /etc/d/secret /opt/share/d/secret ~/d/secret 2>/dev/null && exit 1; true" \
    teardown "expect gone" || fell "a file outside was reached"
rm -r "$SHARE/d" "$SHARE/set.py"
