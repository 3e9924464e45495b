# Makes docker, podman and containerd on this machine pull images through the caching proxy at @ADDRESS@: adds its
# authority to the trusted roots, and tells the services that are here to use it. Run it as root. It may be run again:
# a service is restarted only if something has changed for it.
set -eu
umask 022

# What a service is told. It sorts behind other drop-ins, so that a proxy in one of them does not win.
dropin_name=zz-container-registry-proxy.conf
dropin() {
	cat <<'END'
# From http://@ADDRESS@/setup/systemd, whose authority has the SHA-256 fingerprint
# @FINGERPRINT@
[Service]
Environment="HTTPS_PROXY=http://@ADDRESS@/"
END
}

authority() {
	cat <<'END'
@CERTIFICATES@
END
}

fail() {
	echo "container-registry-proxy: $*" >&2
	exit 1
}

trust_authority() {
	if [ -d /etc/pki/trust/anchors ]; then # SUSE
		anchors=/etc/pki/trust/anchors update=update-ca-certificates
	elif [ -d /etc/pki/ca-trust/source/anchors ]; then # Fedora, RHEL
		anchors=/etc/pki/ca-trust/source/anchors update=update-ca-trust
	elif [ -d /etc/ca-certificates/trust-source/anchors ]; then # Arch
		anchors=/etc/ca-certificates/trust-source/anchors update=update-ca-trust
	else # Debian, Ubuntu, Alpine
		anchors=/usr/local/share/ca-certificates update=update-ca-certificates
	fi
	command -v "$update" >/dev/null || fail "$update is not here: install the package ca-certificates first"
	mkdir -p "$anchors"
	authority >"$anchors/container_registry_proxy.crt"
	"$update"
}

# set_up UNIT
set_up() {
	file=/etc/systemd/system/$1.d/$dropin_name
	if [ "$(cat "$file" 2>/dev/null)" = "$(dropin)" ]; then
		echo "container-registry-proxy: $1 is set up"
		return
	fi
	mkdir -p "${file%/*}"
	dropin >"$file"
	systemctl daemon-reload
	systemctl try-restart "$1"
	echo "container-registry-proxy: $1 now pulls through http://@ADDRESS@/"
}

main() {
	[ "$(id -u)" = 0 ] || fail "root has to run this"
	[ -d /run/systemd/system ] || fail "systemd does not run here: http://@ADDRESS@/ says how to set up a client by hand"
	units=
	for unit in docker.service podman.service containerd.service; do
		if systemctl cat "$unit" >/dev/null 2>&1; then units="$units $unit"; fi
	done
	[ -n "$units" ] || fail "there is no docker.service, podman.service or containerd.service; nothing was changed"
	trust_authority
	for unit in $units; do
		set_up "$unit"
	done
}

main # at the end, so that half a script does nothing
