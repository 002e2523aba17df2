#!/bin/bash
# A1 the loader's and the program's own environment
# where: node
# audit: 3 refused to start: not started by
. "$ATTACKS/lib.sh"
need gcc
cat >x.c <<'C'
#include <stdio.h>
__attribute__((constructor)) static void ran(void) { FILE *f = fopen("loaded", "w"); if (f) fclose(f); }
unsigned la_version(unsigned v) { ran(); return v; }
void gconv_init(void) { ran(); }
C
gcc -shared -fPIC -o x.so x.c || impossible "gcc cannot make a library"
mkdir tmp; chmod 777 tmp
bad=(LD_PRELOAD="$PWD/x.so" LD_AUDIT="$PWD/x.so" LD_LIBRARY_PATH="$PWD" GCONV_PATH="$PWD" LOCPATH="$PWD"
    TMPDIR="$PWD/tmp" RUST_LOG=trace RUST_BACKTRACE=full HOSTALIASES="$PWD/x" MALLOC_PERTURB_=1)
refused "$HAND" env "${bad[@]}" "$NM"
said=$(env "${bad[@]}" "$NM" 2>&1); case $said in *backtrace*|*stack*) fell "a backtrace: $said" ;; esac
# LD_DEBUG would tell where everything is mapped.
[ "$(env LD_DEBUG=all LD_DEBUG_OUTPUT="$PWD/tmp/ld" "$NM" 2>&1 | wc -l)" = 1 ] || fell "LD_DEBUG has an effect"
[ ! -e loaded ] || fell "a library of the caller's ran"
[ -z "$(ls tmp)" ] || fell "something was written to TMPDIR"
# Neither does the file itself look for libraries where others may put them.
readelf -d "$NM" 2>/dev/null | grep -E 'R(UN)?PATH' && fell "it has a path for libraries"
exit 0
