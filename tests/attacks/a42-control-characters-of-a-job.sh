#!/bin/bash
# A42 control characters in a job's words and variables
# where: inside
. "$ATTACKS/lib.sh"
# Whoever runs the scripts gives each of their jobs a word and a variable of this kind. They are
# passed on verbatim, as they must be; that no line of any log holds one is checked for all.
strange=$'a\nb\033[31m\001\tc'
[ "${STRANGE:-}" = "$strange" ] || fell "the variable was changed: $(printf %q "${STRANGE:-}")"
[ "${1:-}" = "$strange" ] || fell "the word was changed: $(printf %q "${1:-}")"
