# Runs one machine: `supervise.sh FOLDER LOWER NAME CGROUP SHARE` in a mount namespace of its own (unshare -m).
#
# Standard input is the cord to the owner: when it closes (the test ended, panicked or was killed), everything of the
# machine dies with it and the folder goes. A folder with a file `keep` in it stays: the owner will switch it on again.
# Two stages: the outer one outlives the machine and tidies up, the inner one is PID 1 of a namespace whose end is the
# end of every process in it, and of every mount.
set -eu
if [ "${6-}" != inner ]; then
    status=0
    mkdir -p "$1/cgroup"
    mount -t cgroup2 cgroup2 "$1/cgroup"
    unshare --pid --fork --kill-child --mount-proc bash "$0" "$@" inner || status=$?
    # The kernel lets a control group go a moment after its last process.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -d "$1/cgroup/$4" ] || break
        find "$1/cgroup/$4" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.05
    done
    umount -l "$1/cgroup" 2>/dev/null || true
    [ -e "$1/keep" ] || rm -rf --one-file-system "$1"
    exit "$status"
fi
folder=$1 lower=$2 name=$3 cgroup=$4 share=$5

# systemd 257 looks for the unified hierarchy at /sys/fs/cgroup and stops when it finds the old ones.
umount -R -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# nspawn puts the machine below the group that it is started in: each machine needs one of its own.
mkdir -p "/sys/fs/cgroup/$cgroup"
echo $$ >"/sys/fs/cgroup/$cgroup/cgroup.procs"
# nspawn keeps its locks there; nothing of the host's may be seen or touched.
mount -t tmpfs tmpfs /run
# No write of it has to outlive this host, and thousands of fsync are most of what a machine costs. What a power cut takes is proven on a
# disk that knows what was flushed (tests/power); here one ends every process and keeps every write.
rm -rf "$folder/work/work/incompat"
mount -t overlay overlay -o "volatile,lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"

binds=(--bind="$folder/containers:/var/lib/containers") # Podman's overlay refuses to sit on an overlay.
[ -e /dev/fuse ] && binds+=(--bind=/dev/fuse)
[ -n "$share" ] && binds+=(--bind="$share:/srv/git")

exec 3<&0
cat <&3 >/dev/null &
cord=$!
# Of the kernel's settings only those that are the machine's own (/proc/sys/net): the others are everybody's.
SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --register=no --keep-unit --machine="$cgroup" --hostname="$name" \
    --directory="$folder/root" --boot --console=pipe --private-network --resolv-conf=off --timezone=off --capability=all \
    --system-call-filter="add_key keyctl bpf fanotify_init fanotify_mark landlock_create_ruleset landlock_add_rule landlock_restrict_self" "${binds[@]}" \
    systemd.journald.forward_to_console=0 >>"$folder/console.log" 2>&1 </dev/null &
wait -n "$cord" $! || true
