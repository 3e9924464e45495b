# What a service is told. It sorts behind other drop-ins, so that a proxy in one of them does not win.
dropin() {
	cat <<'END'
# From @PROXY@/setup, whose authority has the SHA-256 fingerprint
# @FINGERPRINT@
[Service]
Environment="HTTPS_PROXY=@PROXY@/"@NO_PROXY_LINE@
END
}

# set_up UNIT
set_up() {
	changed=$resumed
	put "/etc/systemd/system/$1.d/zz-container-registry-proxy.conf" <<END
$(dropin)
END
	if [ -z "$changed" ]; then
		say "$1 is set up"
		return
	fi
	systemctl daemon-reload
	systemctl try-restart "$1"
	say "$1 now pulls through @PROXY@/"
}

main() {
	[ "$(id -u)" = 0 ] || fail "root has to run this"
	[ -d /run/systemd/system ] || fail "systemd does not run here: @PROXY@/ says how to set up a client without it"
	units=
	for unit in docker.service podman.service containerd.service; do
		if systemctl cat "$unit" >/dev/null 2>&1; then units="$units $unit"; fi
	done
	[ -n "$units" ] || fail "there is no docker.service, podman.service or containerd.service; nothing was changed"
	find_trust
	trust
	for unit in $units; do
		set_up "$unit"
	done
	rm -f "$unfinished"
}

main # at the end, so that half a script does nothing
