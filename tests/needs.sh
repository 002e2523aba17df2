#!/bin/sh
# Makes sure that what a local grid needs of the system is there. Nothing is touched when it is.
# `needs.sh batch` adds the real batch systems; where those are not to be had, it says so and the
# tests that want them say what they left out.
set -eu

missing=
need() { # need PACKAGE PROBE...: the package is missing when a probe is no file and no program
    package=$1
    shift
    for probe; do
        case $probe in
        /*) [ -e "$probe" ] && continue ;;
        *) PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH command -v "$probe" >/dev/null && continue ;;
        esac
        missing="$missing $package"
        return 0
    done
}
need gcc gcc
need libc6-dev /usr/include/stdio.h
need iproute2 ip tc
need util-linux nsenter setpriv setsid
need passwd useradd userdel
need openssh-client ssh ssh-keygen
need openssh-server sshd
need openmpi-bin mpirun.openmpi
need libopenmpi-dev mpicc.openmpi
need mpich mpirun.mpich
need libmpich-dev mpicc.mpich
# What attacks are made with.
need strace strace
need libcap2-bin setcap getcap
need perl perl
need python3 /usr/bin/python3
basic=$missing

missing=
if [ "${1-}" = batch ]; then
    need munge munged
    need slurmctld slurmctld
    need slurmd slurmd slurmstepd
    need slurm-client sbatch squeue scancel
    need slurm-wlm-basic-plugins /usr/lib/*-linux-gnu/slurm-wlm/sched_backfill.so
    need gridengine-master sge_qmaster
    need gridengine-exec sge_execd
    need gridengine-client qsub qstat
fi
batch=$missing
missing=$basic$batch

if [ "$(id -u)" != 0 ]; then
    echo "gridpilot: this needs root, for it makes namespaces${missing:+ (and installs$missing)}; run it with sudo" >&2
    exit 1
fi
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null && [ -z "$basic" ]; then
    echo "gridpilot: missing on this system:$batch (Debian's names); their tests say what they leave out" >&2
    exit 0
elif ! command -v apt-get >/dev/null; then
    echo "gridpilot: missing on this system:$missing (Debian's names); install them and try again" >&2
    exit 1
fi

# One at a time: the second would take the policy of the first for the machine's own.
exec 9</etc/apt
flock 9

# No package starts a daemon meanwhile; a policy that the machine has is put back as it was.
policy=/usr/sbin/policy-rc.d
kept=
restore() {
    if [ -n "$kept" ]; then mv -f "$kept" $policy; else rm -f $policy; fi
}
if [ -e $policy ]; then
    kept=$policy.before-gridpilot
    cp -p $policy $kept
fi
trap restore EXIT
trap 'exit 1' INT TERM HUP
printf '#!/bin/sh\nexit 101\n' >$policy
chmod 0755 $policy

echo "gridpilot: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -o DPkg::Lock::Timeout=600 -q -y"
install() { # install PACKAGE...
    $apt install --no-install-recommends "$@" || { $apt update && $apt install --no-install-recommends "$@"; }
}
# shellcheck disable=SC2086
[ -z "$basic" ] || install $basic
# shellcheck disable=SC2086
if [ -n "$batch" ] && ! install $batch; then
    echo "gridpilot: cannot install$batch; the tests of these batch systems say what they leave out" >&2
fi
# The packages are here for tests, which start the daemons themselves: at the next boot, too,
# nothing of theirs shall run.
for package in $batch; do
    [ ! -e "/etc/init.d/$package" ] || update-rc.d "$package" disable >/dev/null 2>&1 || true
done
