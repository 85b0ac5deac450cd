# Runs in the fresh tree, once: what a lab machine has beyond Debian's packages. The configuration files lie in /lab.
set -eu
# One authority for the Git host; not in the system's trust store, so that a missing `ca-file` shows.
cd /etc/ssl
openssl ecparam -name prime256v1 -genkey -noout -out private/lab-ca.key
openssl req -x509 -new -key private/lab-ca.key -days 7300 -subj "/CN=lab authority" -out lab-ca.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl ecparam -name prime256v1 -genkey -noout -out private/lab-server.key
openssl req -new -key private/lab-server.key -subj /CN=localhost -out /tmp/server.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n' >/tmp/server.ext
openssl x509 -req -in /tmp/server.csr -CA lab-ca.pem -CAkey private/lab-ca.key -CAcreateserial -days 7300 \
    -extfile /tmp/server.ext -out lab-server.pem
rm /tmp/server.csr /tmp/server.ext

install -m 0644 /lab/nginx.conf /etc/nginx/nginx.conf
install -m 0644 /lab/registry.yml /etc/docker/registry/config.yml
install -D -m 0644 /lab/containers.conf /etc/containers/containers.conf.d/lab.conf
install -D -m 0644 /lab/registries.conf /etc/containers/registries.conf.d/lab.conf
install -m 0644 /lab/gitconfig /etc/gitconfig
rm -r /lab

# The repository that the fleet is pushed to; the Git host runs as www-data.
git init --quiet --bare /srv/git/fleet.git
chown -R www-data:www-data /srv/git

# The only network is the loopback, and its only name is this one. No resolver: what asks for one is at fault.
printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
rm -f /etc/resolv.conf
touch /etc/resolv.conf

# Each machine gets its own; an empty file would make every boot a first boot.
rm -f /etc/machine-id /var/lib/dbus/machine-id /etc/hostname
# What cannot work or only makes noise in a machine without a kernel, a disk or a network of its own.
systemctl mask systemd-modules-load.service systemd-remount-fs.service systemd-pstore.service systemd-udev-trigger.service \
    systemd-udevd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    podman-auto-update.timer podman.socket podman-restart.service podman.service getty.target console-getty.service
# Started by the scenario that needs it.
if [ -e /usr/sbin/sshd ]; then systemctl disable ssh.service ssh.socket 2>/dev/null || true; fi
# Likewise: prometheus.service, prometheus-alertmanager.service.
systemctl disable prometheus.service prometheus-alertmanager.service victoria-metrics.service 2>/dev/null || true
systemctl enable nginx.service fcgiwrap.socket docker-registry.service
# The journal of a machine is read from outside and lost with it.
mkdir -p /var/log/journal
