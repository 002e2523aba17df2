# What every attack script begins with: `. "$ATTACKS/lib.sh"`.
set -u
[ -z "${TRACE:-}" ] || set -x
# Something got through.
fell() { echo "fell: $*" >&2; exit 1; }
# This machine cannot show it.
impossible() { echo "$*"; exit 77; }
need() { for program; do command -v "$program" >/dev/null || impossible "no $program here"; done; }
# must_fail COMMAND...: it must not succeed.
must_fail() { "$@" >/dev/null 2>&1 && fell "succeeded: $*"; return 0; }
# as_user COMMAND...: for scripts that run as root.
as_user() { setpriv --reuid="$USER_UID" --regid="$USER_UID" --clear-groups "$@"; }
# The same in the place of the (background) shell, so that its pid is the program's.
become_user() { exec setpriv --reuid="$USER_UID" --regid="$USER_UID" --clear-groups "$@"; }
as_other() { setpriv --reuid="$OTHER_UID" --regid="$OTHER_UID" --clear-groups "$@"; }
# refused TEXT COMMAND...: ends with 1 and one line that holds TEXT.
refused() {
    local text=$1 said code; shift
    said=$("$@" 2>&1 </dev/null); code=$?
    [ $code = 1 ] || fell "code $code, not 1: $* said: $said"
    case $said in *"$text"*) ;; *) fell "$* said: $said" ;; esac
    [ "$(printf '%s\n' "$said" | grep -c '^node-manager:')" = 1 ] || fell "not one line: $said"
}
# Whether a process is there and not only waiting to be reaped.
lives() { grep -q "^State:.[^ZX]" "/proc/$1/status" 2>/dev/null; }
HAND="not started by a pilot's Launcher"
# raised PROGRAM: whether it begins with more rights than its caller. The loader says what it was
# started with and runs nothing, but not for a program whose setuid bits have an effect.
raised() { ! timeout 5 env LD_SHOW_AUXV=1 LD_TRACE_LOADED_OBJECTS=1 "$1" --version </dev/null 2>/dev/null | grep -q '^AT_SECURE: *0$'; }
# raisable: programs that the caller may start and whose setuid or setgid bits could have an effect.
raisable() { find / -xdev -perm /6000 -type f -executable -exec grep -lF ld-linux {} + 2>/dev/null; }
