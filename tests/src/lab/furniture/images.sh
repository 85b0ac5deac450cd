# Runs in a machine that was booted from the furnished tree, once: two small images into the machine's own registry.
# `localhost:5000/busybox:1` and `:2` differ in /etc/version only. Their digests are written to /var/lib/lab.
set -eu
image=/var/tmp/image
mkdir -p $image/root/bin $image/root/etc $image/root/tmp /var/lib/lab
chmod 1777 $image/root/tmp
cp /bin/busybox $image/root/bin/busybox
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox $image/root/bin/"$applet"
done
printf 'FROM scratch\nCOPY root /\nCMD ["/bin/sh"]\n' >$image/Containerfile
until curl -sf http://localhost:5000/v2/ >/dev/null; do sleep 0.1; done
for version in 1 2; do
    echo $version >$image/root/etc/version
    podman build --quiet --timestamp 0 --network none --tag localhost:5000/busybox:$version $image
    podman push --quiet --digestfile /var/lib/lab/busybox-$version localhost:5000/busybox:$version
done
sync
