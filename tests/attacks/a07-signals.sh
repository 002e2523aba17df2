#!/bin/bash
# A7 ignored and blocked signals
# where: node
# audit: 2 build a-
# audit: 2 torn down
. "$ATTACKS/lib.sh"
need perl
clean="inside test \"\$(awk '/SigIgn|SigBlk/ {print \$2}' /proc/self/status | sort -u)\" = 0000000000000000"
"$PILOT" "via trap '' TERM HUP INT CHLD PIPE QUIT USR1 USR2 ALRM" build "expect built" "$clean" teardown "expect gone" || fell ignored
cat >block <<'P'
use POSIX; POSIX::sigprocmask(SIG_BLOCK, POSIX::SigSet->new(1..31)); exec @ARGV;
P
cat >through <<EOS
#!/bin/bash
exec perl $PWD/block "$NM"
EOS
chmod 755 through
"$PILOT" "via exec ./through" build "expect built" "$clean" teardown "expect gone" || fell blocked
